"""The tiny base: trained the same from the same seed, mediocre as promised, and a run on it repeats itself."""

import asyncio
import json
import random
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from aslfast.config import load_recipe
from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASE
from aslfast.index.bm25 import BM25Index
from aslfast.lab import curriculum, pretrain
from aslfast.lab.demonstrations import Demonstrator, NoiseRates
from aslfast.lab.model_init import make_model
from aslfast.lab.names import names, near_name
from aslfast.lab.tokenizer import make_tokenizer
from aslfast.lab.world import World
from aslfast.metrics import scoring
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import parse_output
from aslfast.prompts.tool_calls import parse_calls
from aslfast.rollout.multi_turn import stable_seed
from aslfast.rounds.records import TIMED
from aslfast.trainer import build, evaluation, lab_datasets, train

SHORT = [
    "rounds=1", "threads=1", "data.eval_count=30", "sampler.max_running_requests=64", "generator.steps=1",
    "generator.prompts_per_step=3", "grm.steps=1", "grm.prompts_per_step=4", "policy.steps=1",
    "policy.prompts_per_step=4",
]  # fmt: skip


def short_training(folder, seed):
    stages = [
        curriculum.Stage("practice", 4000, {"copy": 0.5, "look_up": 0.5}),
        curriculum.Stage("roles", 6000, {"grm": 1.0}, curriculum.NOISY),
    ]
    course = replace(pretrain.COURSE, stages=stages)
    return (pretrain.train_base(folder, seed, course=course) / "model.safetensors").read_bytes()


def test_the_same_seed_trains_the_same_bytes(tmp_path):
    first = short_training(tmp_path / "a", 0)
    assert short_training(tmp_path / "b", 0) == first
    assert short_training(tmp_path / "c", 1) != first


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_look_back_heads_attend_so_many_tokens_back(shift):
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, 0)
    model.set_attn_implementation("eager")
    for projection in (model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.k_proj):
        projection.weight.data.zero_()  # the biases alone: what tokens say comes on top
    ids = torch.randint(300, 900, (1, 40), generator=torch.Generator().manual_seed(0))
    weights = model(input_ids=ids, output_attentions=True).attentions[0][0, shift - 1]
    assert torch.equal(weights[10:].argmax(-1), torch.arange(10, 40) - shift)


def test_demonstrations_are_what_a_rollout_reads():
    world, rng = World.make(3, "base"), random.Random(0)
    chat = Chat(make_tokenizer())
    question = world.ask(rng, 2)
    search = lambda query: " ".join(p.contents for p in world.passages()[:1])  # noqa: E731
    example = Demonstrator(chat, world, search, NoiseRates(), rng).policy(question.question)
    said = chat.text([i for i, w in zip(example.token_ids, example.weights, strict=True) if w])
    turns = said.replace("</tool_call>", "</tool_call>\n").splitlines()
    assert [parse_calls(turn)[0].queries[0].split(" of ")[1] for turn in turns[:2]] == list(question.chain[:2])
    assert parse_output(("answer",), turns[2])[1] == question.answer
    assert len(example.token_ids) == len(example.weights)


def test_near_misses_are_not_the_name_itself():
    rng = random.Random(1)
    for _, name in zip(range(50), names("base", rng), strict=False):
        near = near_name(name, "base", rng)
        assert near != name and sum(a == b for a, b in zip(near.split(), name.split(), strict=True)) == 1


@pytest.fixture(scope="module")
def measured():
    from aslfast.trainer.lab_evaluation import evaluate_base

    return evaluate_base("lab", [77])[0]


def test_the_shipped_base_is_mediocre_and_clearly_above_chance(measured):
    """The numbers of the README, with room for one world's sampling error (about 3 points at n = 300)."""
    assert 0.25 < measured["policy_accuracy"] < 0.55
    assert 0.6 < measured["grm_accuracy"] < 0.8
    assert measured["reference_right"] > 0.5
    assert measured["by_hops"]["1"]["accuracy"] > measured["by_hops"]["3"]["accuracy"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = load_recipe("tiny", SHORT, seed=5)
    return [train.train(config, folder / name) for name in ("a", "b")]


def test_a_context_beyond_the_model_is_refused_at_the_start(tmp_path):
    config = load_recipe("tiny", ["sampler.max_context=2000"])
    with pytest.raises(UserError, match=r"sampler\.max_context is 2000, the model has 1024 positions"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def without_times(run, name):
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def test_the_same_seed_gives_the_same_metrics_line_for_line(runs):
    for name in ("metrics.jsonl", "rounds.jsonl"):
        first, second = (without_times(run, name) for run in runs)
        assert first == second and first


def test_peft_loads_the_adapters_of_a_run(runs):
    model, _ = load_base(LAB_BASE)
    folder = lora.latest(runs[0] / "adapters" / "policy")
    loaded = PeftModel.from_pretrained(model, folder)
    weights = [p for n, p in loaded.named_parameters() if "lora_B" in n]
    assert weights and any(p.abs().max() > 0 for p in weights)


def test_held_out_entities_occur_in_no_training_task(runs):
    heldout = World.make(5, "heldout")
    index, learned = BM25Index.open(runs[0] / "lab" / "train.idx"), World.make(5, "train")
    text = "\n".join(passage.contents for passage in index.passages([f"e{i}" for i in range(len(index))]))
    assert all(name in text for name in learned.facts)
    assert not [name for name in heldout.facts if name in text]


def test_round_zero_is_the_base_itself(runs, tmp_path):
    """The fresh adapters change nothing: the same tasks and seeds give the base's accuracy."""
    config = load_recipe("tiny", SHORT, seed=5)
    place = lab_datasets.lab_datasets(config, tmp_path / "lab")
    model, tokenizer = load_base(LAB_BASE)
    sampler = build.LocalSampler(model, tokenizer, max_running_requests=64, max_context=512)
    rollout = build.build_rollout(config, sampler, tokenizer, build.build_search_tool(config, place.eval_index))
    seed = stable_seed(config.seed, "evaluation")
    plays = evaluation.Evaluation(rollout, seed, 64, adapters=False)
    played = asyncio.run(plays.play(place.policy_evals))
    assert (
        scoring.policy_scores(played)["policy_accuracy"] == without_times(runs[0], "rounds.jsonl")[0]["policy_accuracy"]
    )
