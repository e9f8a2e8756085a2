"""The recipes for instruct models: their prompts have the gaps that are filled, they are planned, and one round of each
runs with a small random model over a few passages of an encyclopaedia."""

import json
import re

import pytest
import transformers

from aslfast.config import load_recipe
from aslfast.core import Question
from aslfast.data.corpus import Passage
from aslfast.data.qa_dataset import write_questions
from aslfast.index.bm25 import BM25Index
from aslfast.plugins import is_import_path, name_in
from aslfast.trainer import train
from tests.support.cli.commands import call
from tests.support.tiny_models import CHATML, byte_tokenizer, tiny_model

LONG = ("ssp", "ssrl", "reseek", "re-searcher", "convsearch-r1", "fathom", "spear", "dr-zero")
GAPS = {
    "generator": {"answer", "topic", "hops", "searches", "passage"}, "policy": {"question"}, "tester": {"question"},
    "reader": {"question", "passages"}, "judge": {"goal", "result", "question", "answer"},
    "grm": {"question", "answer"}, "searcher": {"query"}, "rewriter": {"question"}, "imitator": set(),
}  # fmt: skip
PASSAGES = [
    Passage("p1", '"Fram"\nFram is a ship that was used in expeditions of the Arctic and Antarctic regions by Norway.'),
    Passage("p2", '"Fridtjof Nansen"\nFridtjof Nansen had the ship Fram built by Colin Archer, and drifted with it.'),
    Passage("p3", '"Colin Archer"\nColin Archer was a naval architect and shipbuilder from Larvik in Norway.'),
    Passage("p4", '"Larvik"\nLarvik is a town in Vestfold, known for its mineral water and its beech forest.'),
]
QUESTIONS = [Question("a", "Who built the Fram?", ("Colin Archer",)), Question("b", "Where is Larvik?", ("Vestfold",))]
SMALL = (
    "rounds=1", "threads=1", "data.eval_count=1", "model.dtype=float32", "model.device=cpu", "lora.rank=2",
    "sampler.max_turns=2", "sampler.max_new_tokens=12", "sampler.max_context=6000", "sampler.max_running_requests=8",
    "learner.activation_checkpointing=none", "policy.steps=1", "policy.prompts_per_step=1", "policy.group_size=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Settings that name a small random model, passages, questions and topics."""
    folder = tmp_path_factory.mktemp("long")
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], "<|im_end|>")
    model = tiny_model(tokenizer)
    model.config.max_position_embeddings = 8192
    transformers.Qwen2ForCausalLM(model.config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    BM25Index.build(PASSAGES, folder / "idx", threads=1)
    write_questions(folder / "q.parquet", QUESTIONS)
    (folder / "topics.txt").write_text("Colin Archer\nLarvik\n")
    data = {"index": "idx", "topics": "topics.txt", "eval_questions": "q.parquet", "labelled": "q.parquet"}
    return [f"model.path={folder / 'model'}", *(f"data.{key}={folder / name}" for key, name in data.items())]


@pytest.mark.parametrize("recipe", [name + kind for name in LONG for kind in ("", "-tiny")])
def test_a_prompt_has_gaps_that_its_role_is_given(recipe):
    for name, role in load_recipe(recipe).roles.items():
        assert set(re.findall(r"\{(\w+)\}", role.prompt)) <= GAPS[name], name


@pytest.mark.parametrize("recipe", LONG)
def test_it_is_planned(recipe):
    assert call("train", "--recipe", recipe, "--dry-run").exit_code == 0
    planned = call("plan", "--recipe", recipe, "--gpu", "80GB", "--json")
    assert planned.exit_code == 0 and json.loads(planned.stdout)["fits"]


@pytest.mark.parametrize("recipe", LONG)
def test_one_round_of_a_random_model(recipe, files, tmp_path):
    config = load_recipe(recipe)
    names = [name_in(path) for path in config.round_phases if is_import_path(path)]
    steps = [f"own_phase.{name}.{key}" for name in names for key in ("steps=1", "tasks_per_step=1", "group_size=2")]
    own = ["roles.searcher.max_new_tokens=12"] if recipe == "ssrl" else []
    own += [f"schedule.{key}.warmup=0" for key in config.schedule]
    train.train(load_recipe(recipe, [*SMALL, *steps, *own, *files]), tmp_path / "run")
    rounds = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [0, 1] and rounds[1]["n_eval"] == 1
    recorded = list((tmp_path / "run" / "trajectories").iterdir())
    assert recorded or recipe == "spear"  # which drops what babbles on
