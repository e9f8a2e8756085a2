"""The recipes for instruct models: planned, dry-run, and one round each of a small random model over plain passages."""

import json

import pytest
import tokenizers
import torch
import transformers

from aslfast.config import load_recipe
from aslfast.index import BM25Index
from aslfast.plugins import name_in
from aslfast.trainer import train
from tests.support.cli.commands import call
from tests.support.tiny_models import CHATML, PASSAGES

NAMES = ("mae", "spiral", "pasodoble", "soar", "comas", "eva", "spc", "seif")
SMALL = (
    "rounds=1", "threads=1", "model.dtype=float32", "model.device=cpu", "model.prompts=compact", "lora.rank=4",
    "sampler.max_turns=2", "sampler.max_new_tokens=12", "sampler.max_context=2500", "sampler.max_running_requests=16",
    "data.eval_count=2", "data.labelled_count=3", "monitor.judge_probe=0",
)  # fmt: skip
FEW = {"answers": 2, "tries": 2, "continuations": 1, "hard_tries": 2, "asked": 2, "inner_steps": 1, "batch": 2,
       "rounds": 2, "turns": 2, "instructor_steps": 1}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random Qwen2 with a tokenizer of its own, an index, topics and questions."""
    folder = tmp_path_factory.mktemp("files")
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=control, show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    prompts = [role.prompt for name in NAMES for role in load_recipe(name).roles.values()]
    core.train_from_iterator(prompts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    BM25Index.build(PASSAGES, folder / "idx", threads=1)
    (folder / "topics.txt").write_text("Mira\nOslo\nAker\n")
    asked = [("Where was Mira born?", "Oslo"), ("On which river does Oslo lie?", "Aker"), ("Is the Aker short?", "yes")]
    rows = [json.dumps({"question": question, "answers": [answer]}) for question, answer in asked]
    (folder / "questions.jsonl").write_text("\n".join(rows))
    return folder


def small(name, files):
    """The settings that let a recipe play one small round."""
    recipe = load_recipe(name)
    (path,) = recipe.round_phases
    phase = name_in(path)
    own = {"steps": 2, "tasks_per_step": 2, "group_size": 2}
    options = {key: FEW[key] for key in recipe.own_phase[phase].options if key in FEW}
    places = {"data.index": "idx", "data.topics": "topics.txt", "data.eval_questions": "questions.jsonl",
              "data.labelled": "questions.jsonl", "model.path": "model"}  # fmt: skip
    return [
        *SMALL, *(f"{key}={files / value}" for key, value in places.items()),
        *(f"own_phase.{phase}.{key}={value}" for key, value in own.items()),
        *(f"own_phase.{phase}.options.{key}={value}" for key, value in options.items()),
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_as_its_tiny_recipe_does(name):
    long, tiny = load_recipe(name), load_recipe(f"{name}-tiny")
    assert (long.loss, long.advantage) == (tiny.loss, tiny.advantage)
    for role in long.roles.keys() & tiny.roles.keys():
        assert long.advantage_of(role) == tiny.advantage_of(role)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_and_plays_a_round(name, files, tmp_path):
    settings = [part for setting in small(name, files) for part in ("--set", setting)]
    assert "2 optimizer steps" in call("train", "--recipe", name, "--dry-run", *settings).stdout
    planned = call("plan", "--recipe", name, "--gpu", "80GB", *settings)
    assert planned.exit_code == 0, planned.output
    train.train(load_recipe(name, small(name, files)), tmp_path / "run")
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()][1:]
    assert line["round"] == 1 and line["n_eval"] == 2
