"""The memory plan against real modules, caches and steps on the CPU, and its choices and suggestions against itself."""

import functools
import itertools
import json
import re

import pytest
import torch
import transformers
from typer.testing import CliRunner

from aslfast.cli.main import app
from aslfast.config import load_recipe
from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LossConfig, RunConfig
from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASE
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.models.context_limit import check_context
from aslfast.sampler.local.kv_cache import KVCache
from aslfast.trainer.preflight import layer_memory, memory_model
from aslfast.trainer.preflight.architectures import DENSE, read_shape
from aslfast.trainer.preflight.memory_fit import CARDS, Card, card_of, make_plan, with_settings
from aslfast.trainer.preflight.memory_suggestions import suggest
from bench.shared.live_memory import LiveMemory

RANK = 8
SMALL = {
    "hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": False,
    "sliding_window": None,
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENGINE = ("sampler.kind=sglang",)


def small_config(kind, layers=3, **changes):
    return transformers.AutoConfig.for_model(kind, **{**SMALL, **changes}, num_hidden_layers=layers)


def small_model(kind, dtype=torch.float32, layers=3):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(small_config(kind, layers), dtype=dtype)
    return lora.add_adapters(model.eval(), RANK, 16.0, seed=0)


def shape_of(config, folder):
    config.save_pretrained(folder)
    return read_shape(str(folder), RANK)


def learner_of(model, tokens, checkpointing="none"):
    options = LearnerConfig(micro_batch_tokens=tokens, activation_checkpointing=checkpointing)
    return Learner(model, options, LossConfig(), 1.0, ROLES)


def planned(dtype, tokens, checkpointing="none"):
    sets = [f"model.dtype={dtype}", f"lora.rank={RANK}", f"learner.micro_batch_tokens={tokens}"]
    sets += [f"sampler.max_context={tokens}", f"learner.activation_checkpointing={checkpointing}"]
    return load_recipe("tiny", sets)


def long_trajectory(n_tokens):
    ids = tuple((7 * i) % SMALL["vocab_size"] for i in range(n_tokens))
    mask, task = (0, *[1] * (n_tokens - 1)), Task("t", "policy", "p")
    return Trajectory(task, ids, mask, tuple(-4.0 * live for live in mask), (), StopReason.NO_OUTPUT)


# --- parameters and caches: exact ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", DENSE)
def test_parameters_are_those_of_the_model_and_of_peft(kind, tied, tmp_path):
    config = small_config(kind, tie_word_embeddings=tied)
    shape = shape_of(config, tmp_path)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.adapter_parameters == lora.add_adapters(model, RANK, 16.0, 0, ("policy",)).num_parameters(True)


def test_known_models_have_their_published_sizes():
    """Parameters as the models' pages give them."""
    published = {
        "qwen2.5-0.5b": 494_032_768, "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512,
        "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352, "qwen3-4b": 4_022_468_096,
        "qwen3-8b": 8_190_735_360, "llama-3.1-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400,
        "mistral-7b-v0.3": 7_248_023_552,
    }  # fmt: skip
    assert {name: read_shape(name, RANK).parameters for name in published} == published
    # rank x (inputs + outputs) of the seven projections of a layer
    outputs = (3584 + 3584) + 2 * (3584 + 512) + (3584 + 3584) + 2 * (3584 + 18944) + (18944 + 3584)
    assert read_shape("Qwen/Qwen2.5-7B-Instruct", 32).adapter_parameters == 28 * 32 * outputs


def test_the_lab_base_has_the_bytes_of_its_file():
    shape = read_shape("lab", 16)
    model, _ = load_base(LAB_BASE)
    assert shape.parameters * 4 == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", DENSE)
def test_keys_and_values_of_a_token(kind, dtype, tmp_path):
    shape = shape_of(small_config(kind), tmp_path)
    config = load_recipe("tiny", [f"model.dtype={dtype}", "sampler.kind=sglang"])
    model = transformers.AutoModelForCausalLM.from_config(small_config(kind), dtype=DTYPES[dtype])
    cache = transformers.DynamicCache(config=model.config)
    model(torch.zeros(1, 11, dtype=torch.long), past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 11 * memory_model.kv_bytes(shape, config)
    local = with_settings(config, {"sampler.kind": "local"})
    rows = KVCache(shape.layers, shape.kv_heads, shape.head_dim, torch.zeros(1, dtype=DTYPES[dtype]))
    rows.reserve(7, 256, 7, 256)
    assert rows.kv_L2RHSD.nbytes * memory_model.LOCAL_GROWTH == 8 * 256 * memory_model.kv_bytes(shape, local)


def test_optimizer_and_gradient_of_real_steps(tmp_path):
    shape, model = shape_of(small_config("qwen2"), tmp_path), small_model("qwen2")
    learner, gradients = learner_of(model, 64), []
    for role in ROLES:
        model.set_adapter(role)
        for weight in lora.parameters_of(model, role):
            weight.register_post_accumulate_grad_hook(lambda w: gradients.append(w.grad.nbytes))
        learner.step(role, [long_trajectory(20)], [1.0])
        assert sum(gradients) == memory_model.gradients(shape).n_bytes
        assert not any(weight.grad is not None for weight in model.parameters())  # freed before the next role's
        gradients.clear()
    states = [s for o in learner.optimizers.values() for s in o.state.values()]
    held = sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in states)
    assert held == memory_model.optimizer(shape, RunConfig()).n_bytes
    masters = sum(p.nbytes for role in ROLES for p in lora.parameters_of(model, role))
    assert masters == memory_model.adapters(shape, load_recipe("tiny")).n_bytes


# --- activations: against the peaks of real steps --------------------------------------------------------------


def peak_of_a_step(kind, dtype, checkpointing, layers, tokens):
    """Bytes beyond the weights and the optimizer's state, which a first step has made."""
    model = small_model(kind, DTYPES[dtype], layers)
    learner = learner_of(model, tokens, checkpointing)
    learner.step("policy", [long_trajectory(9)], [1.0])
    states = [v for o in learner.optimizers.values() for s in o.state.values() for v in s.values()]
    with LiveMemory([*model.parameters(), *model.buffers(), *states]) as memory:
        learner.step("policy", [long_trajectory(tokens)], [1.0])
    return memory.peak


@pytest.mark.parametrize(
    ("kind", "dtype", "checkpointing"),
    [
        *itertools.product(("qwen2", "qwen3"), DTYPES, ("none", "layers", "selective")),
        ("llama", "bfloat16", "none"),
        ("mistral", "float32", "layers"),
    ],
)
def test_a_step_takes_what_the_plan_says(kind, dtype, checkpointing, tmp_path):
    """Exactly so for each layer more: flash attention keeps the same on a CPU as on a GPU. The whole peak is below the
    plan, by what the plan bounds and does not count: it is a smaller share of a larger model."""
    tokens, layers, e = 513, 6, DTYPES[dtype].itemsize
    peak, smaller = (peak_of_a_step(kind, dtype, checkpointing, n, tokens) for n in (layers, layers - 2))
    shape, config = shape_of(small_config(kind, layers), tmp_path), planned(dtype, tokens, checkpointing)
    cast = shape.adapter_parameters / layers * e * (e < 4 and checkpointing == "none")
    added = (tokens - 1) * layer_memory.kept_bytes(shape, config) + cast
    assert (peak - smaller) / 2 == pytest.approx(added, rel=0.005)
    head = memory_model.head(shape, config).n_bytes - memory_model.WORKSPACE_BYTES - memory_model.STATISTICS_BYTES
    expected = memory_model.activations(shape, config).n_bytes + head  # the gradients come when these go
    assert {"none": 0.92, "selective": 0.75, "layers": 0.65}[checkpointing] * expected < peak < expected


# --- choices ---------------------------------------------------------------------------------------------------


def plan_of(*sets, gpu="80GB", recipe="asl-qwen2.5-7b"):
    config = load_recipe(recipe, sets)
    return config, make_plan(config, known_shape(config.model.path, config.lora.rank), card_of(gpu))


known_shape = functools.cache(read_shape)


CASES = [
    ("80GB", ENGINE),
    ("48GB", ENGINE),
    ("h200", (*ENGINE, "learner.activation_checkpointing=none")),
    ("141GB", ("learner.activation_checkpointing=none",)),
    ("h200", (*ENGINE, "learner.activation_checkpointing=selective", "sampler.max_context=4096")),
    ("h100", (*ENGINE, "sampler.share_base=false")),
    ("4090", ("model.path=qwen3-0.6b",)),
    ("24GB", ("model.path=llama-3.2-1b", *ENGINE, "sampler.max_context=4096", "learner.micro_batch_tokens=2048")),
]


@pytest.mark.parametrize(("gpu", "sets"), CASES)
def test_the_settings_are_accepted_and_fit(gpu, sets):
    """They can be copied behind --set; planned again, they stay as they are."""
    config, plan = plan_of(*sets, gpu=gpu)
    assert plan.fits and plan.n_bytes <= plan.card.n_bytes
    copied = [f"{key}={value}" for key, value in plan.settings.items()]
    assert set(plan.settings) == {"learner.micro_batch_tokens", "sampler.max_running_requests"} | (
        {"sampler.gpu_memory_fraction"} if config.sampler.kind == "sglang" else set()
    )
    again, second = plan_of(*sets, *copied, gpu=gpu)
    assert again == plan.config
    assert second.settings["learner.micro_batch_tokens"] == plan.settings["learner.micro_batch_tokens"]
    assert second.settings["sampler.max_running_requests"] == plan.settings["sampler.max_running_requests"]


def test_the_pool_gets_what_is_left_and_rows_fit_into_it():
    config, plan = plan_of(*ENGINE)
    names = [part.name for part in plan.parts]
    assert names == [
        "base", "adapters", "optimizer", "gradients", "activations", "head", "sampling", "CUDA contexts", "reserve",
        "KV pool",
    ]  # fmt: skip
    token = 2 * 28 * 4 * 128 * 2
    assert 0 <= plan.card.n_bytes - plan.n_bytes < token
    assert plan.parts[-1].n_bytes == plan.kv_tokens * token
    assert plan.trajectories(2560) >= plan.config.sampler.max_running_requests == config.sampler.max_running_requests
    # SGLang's own sum: free memory x share = base + slots for adapters + pool
    free = plan.card.n_bytes - 2 * memory_model.CONTEXT_BYTES
    engine = 2 * (7_615_616_512 + 4 * plan.shape.adapter_parameters) + plan.kv_tokens * token
    assert 0 <= engine - plan.config.sampler.gpu_memory_fraction * free < free / 1000


def test_micro_batch_and_rows_shrink_with_the_card():
    """Never more of anything on less memory; and a micro-batch always holds one full trajectory."""
    plans = [plan_of(*ENGINE, gpu=f"{gb}GB")[1] for gb in range(36, 120, 6)]
    for less, more in itertools.pairwise(plans):
        for key in ("learner.micro_batch_tokens", "sampler.max_running_requests"):
            assert less.settings[key] <= more.settings[key]
    sizes = {plan.settings["learner.micro_batch_tokens"] for plan in plans}
    assert sizes == {10240, 20480}
    assert min(plan.settings["sampler.max_running_requests"] for plan in plans) < 128


def test_two_copies_take_one_base_more():
    shared, own = (plan_of(*ENGINE, f"sampler.share_base={share}")[1] for share in ("true", "false"))
    assert own.parts[0].n_bytes - shared.parts[0].n_bytes == 2 * 7_615_616_512
    assert own.kv_tokens < shared.kv_tokens


def test_local_rows_are_whole():
    config, plan = plan_of(gpu="48GB")
    assert plan.kv_tokens == plan.config.sampler.max_running_requests * config.sampler.max_context


# --- what cannot fit -------------------------------------------------------------------------------------------

TOO_LARGE = [
    ("80GB", ("learner.activation_checkpointing=none",)),
    ("24GB", (*ENGINE, "learner.activation_checkpointing=none", "model.dtype=float32", "sampler.share_base=false")),
    ("h200", ("model.path=qwen2.5-32b", *ENGINE, "learner.activation_checkpointing=none")),
    ("24GB", ()),
    ("h200", ("model.path=qwen2.5-72b", *ENGINE)),  # several cards are enough
    ("h100", ("model.path=qwen2.5-72b", *ENGINE)),  # several cards and a shorter context
]


@pytest.mark.parametrize(("gpu", "sets"), TOO_LARGE)
def test_a_suggestion_does_what_it_says(gpu, sets):
    config, plan = plan_of(*sets, gpu=gpu)
    assert not plan.fits
    found = suggest(config, plan.shape, plan.card)
    assert any(suggestion.fits for suggestion in found)
    for suggestion in found:
        changes = re.findall(r"--set (\S+)", suggestion.change)
        card = re.findall(r"--gpu (\S+)", suggestion.change) or [gpu]
        after = plan_of(*sets, *changes, gpu=card[0])[1]
        assert after.fits == suggestion.fits
        if not after.fits and card == [gpu]:
            assert plan.n_bytes - after.n_bytes == suggestion.frees_bytes > 0


def test_a_base_on_several_cards():
    """Each holds a part of engine, layers and keys and values; two layers whole; and what is not split."""
    _, one = plan_of("model.path=qwen2.5-72b", *ENGINE, gpu="h200")
    four = plan_of("model.path=qwen2.5-72b", *ENGINE, "distributed.model_parallel_size=4", gpu="h200")[1]
    shape, parts = one.shape, {part.name: part.n_bytes for part in four.parts}
    whole = shape.parameters - shape.layer_parameters
    layer = shape.layer_parameters // shape.layers
    assert whole == 2 * shape.vocabulary * shape.hidden + shape.hidden  # embeddings, head, last norm
    learner = shape.layer_parameters // 4 + 2 * layer + whole
    assert parts["base"] == pytest.approx(2 * (learner + shape.parameters / 4), rel=1e-6)
    assert four.fits and not one.fits
    assert parts["KV pool"] == four.kv_tokens * 2 * shape.layers * 2 * shape.head_dim * 2  # 2 of 8 heads, 2 bytes


def test_the_context_that_fits_is_the_longest():
    config, plan = plan_of("learner.activation_checkpointing=none")
    change = next(r.change for r in suggest(config, plan.shape, plan.card) if "max_context" in r.change)
    context = int(change.rsplit("=", 1)[1])
    assert plan_of("learner.activation_checkpointing=none", f"sampler.max_context={context}")[1].fits
    assert not plan_of("learner.activation_checkpointing=none", f"sampler.max_context={context + 256}")[1].fits


# --- the command -----------------------------------------------------------------------------------------------


def call(*args):
    return CliRunner().invoke(app, ["plan", *map(str, args)])


def test_the_page():
    result = call("--recipe", "asl-qwen2.5-7b", "--gpu", "80GB", "--set", ENGINE[0])
    assert result.exit_code == 0
    assert "7,615,616,512 parameters" in result.stdout and "not measured" in result.stdout
    assert re.search(r"^ base +15\.23 ", result.stdout, re.M)
    copied = re.findall(r"--set (\S+)", result.stdout)
    assert load_recipe("asl-qwen2.5-7b", copied) != load_recipe("asl-qwen2.5-7b")


def test_json_is_the_same_plan():
    result = call("--recipe", "asl-qwen2.5-7b", "--gpu", "h100", "--json", "--set", ENGINE[0])
    told = json.loads(result.stdout)
    assert told["fits"] and told["gpu_bytes"] == 81559 * 2**20 and not told["measured"] and told["suggestions"] == []
    assert sum(part["n_bytes"] for part in told["parts"]) == told["bytes"] <= told["gpu_bytes"]
    assert told["trajectories"]["max_context"] == told["kv_tokens"] // 10240


def test_what_cannot_fit_ends_with_2_and_a_suggestion():
    result = call("--recipe", "asl-qwen2.5-7b", "--gpu", "80GB", "--set", "learner.activation_checkpointing=none")
    assert result.exit_code == 2
    assert re.fullmatch(
        r"aslfast: error: asl-qwen2.5-7b does not fit 80GB: it takes at least 9\d\.\d GB of 80.0; "
        r"--set learner.activation_checkpointing=layers frees \d+\.\d GB, then it fits; or .*\n", result.stderr,
    )  # fmt: skip
    assert "at least" in result.stdout
    as_json = call(
        "--recipe", "asl-qwen2.5-7b", "--gpu", "80GB", "--set", "learner.activation_checkpointing=none", "--json"
    )
    told = json.loads(as_json.stdout)
    assert as_json.exit_code == 2 and not told["fits"] and told["settings"] == {}
    assert any(suggestion["fits"] for suggestion in told["suggestions"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--gpu", "80"), "--gpu 80: neither a size, such as 80GB, nor one of 4090, l40s"),
        (("--gpu", "0GB"), "--gpu 0GB: neither"),
        (("--gpu", "80GB", "--model", "gpt-5"), "gpt-5: no model folder here .*one of qwen2.5-0.5b"),
        (("--gpu", "80GB", "--set", "sampler.gpu_memry=1"), "unknown key 'sampler.gpu_memry'; did you mean"),
    ],
)
def test_bad_arguments_get_one_line(args, message):
    result = call(*args)
    assert result.exit_code == 2 and re.search(message, result.stderr) and result.stderr.count("\n") == 1


def test_models_that_the_formulas_do_not_know_are_refused(tmp_path):
    transformers.AutoConfig.for_model("gemma2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model_type gemma2 cannot be planned; use one of llama"):
        read_shape(str(tmp_path), RANK)
    transformers.AutoConfig.for_model("mistral", sliding_window=64).save_pretrained(tmp_path)
    shape = read_shape(str(tmp_path), RANK)
    with pytest.raises(UserError, match=r"is 65, the model attends to 64 tokens \(sliding_window\); set it to 64"):
        check_context(shape.limit, 65)
    check_context(shape.limit, 64)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"its config\.json cannot be read"):
        read_shape(str(tmp_path), RANK)


def test_cards():
    assert card_of("H100").n_bytes == CARDS["h100"] and card_of("24gb") == Card("24gb", 24 * 10**9)
