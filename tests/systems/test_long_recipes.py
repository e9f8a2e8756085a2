"""The systems' recipes for instruct models: their prompts have the gaps that are filled, they are planned, and a round
of each runs with a small random model over a few passages."""

import json
import os
import re
from pathlib import Path

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

SEARCH = ("ssp", "ssrl", "reseek", "re-searcher", "convsearch-r1", "fathom", "spear", "dr-zero")
SELFPLAY = ("mae", "spiral", "pasodoble", "soar", "comas", "eva", "spc", "seif", "self-redteam")
IMPROVE = ("nft", "score", "b-star", "knowrl", "exit", "spice", "sage", "agent-r")
PREFERENCE = ("spo", "sppo", "ssr-zero", "act")
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
QUESTIONS = [
    Question("a", "Who built the Fram?", ("Colin Archer",)), Question("b", "Where is Larvik?", ("Vestfold",)),
    Question("c", "Is the Fram a ship?", ("yes",)),
]  # fmt: skip
SMALL = (
    "rounds=1", "threads=1", "data.eval_count=2", "model.dtype=float32", "model.device=cpu", "lora.rank=2",
    "sampler.max_turns=2", "sampler.max_new_tokens=12", "sampler.max_context=6000", "sampler.max_running_requests=16",
    "learner.activation_checkpointing=none", "monitor.judge_probe=0",
    "policy.steps=2", "policy.prompts_per_step=1", "policy.group_size=2",
)  # fmt: skip
OWN = {"steps": 2, "tasks_per_step": 2, "group_size": 2}  # of each phase of a system
FEW = {
    "answers": 2, "tries": 2, "continuations": 1, "hard_tries": 2, "asked": 2, "inner_steps": 1, "batch": 2,
    "rounds": 2, "turns": 2, "instructor_steps": 1, "attempts": 2, "choices": 2,
    "epochs": 2, "verdicts": 2, "held_back": 1, "temperature_high": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Settings that name a small random model, passages, questions and topics."""
    folder = tmp_path_factory.mktemp("long")
    BM25Index.build(PASSAGES, folder / "idx", threads=1)
    write_questions(folder / "q.parquet", QUESTIONS)
    (folder / "topics.txt").write_text("Colin Archer\nLarvik\nFram\n")
    return settings_of(folder, folder / "q.parquet", folder / "topics.txt")


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    """The same with the passages and questions of the folder that ASLFAST_DATA names, and the shipped topics."""
    if not (given := os.environ.get("ASLFAST_DATA")):
        pytest.skip("ASLFAST_DATA names no folder with passages.parquet and questions.parquet")
    folder = tmp_path_factory.mktemp("real")
    BM25Index.build(Path(given) / "passages.parquet", folder / "idx", threads=1)
    return settings_of(folder, Path(given) / "questions.parquet", "general")


def settings_of(folder, questions, topics):
    """Settings for the index of a folder, and a small random model that is written there."""
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], "<|im_end|>")
    model = tiny_model(tokenizer)
    model.config.max_position_embeddings = 8192
    transformers.Qwen2ForCausalLM(model.config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    data = {"index": folder / "idx", "topics": topics, "eval_questions": questions, "labelled": questions}
    return [f"model.path={folder / 'model'}", *(f"data.{key}={value}" for key, value in data.items())]


def small(recipe, files):
    """The settings that let a recipe play a small round."""
    config = load_recipe(recipe)
    settings = [*SMALL, *files, *(f"schedule.{key}.warmup=0" for key in config.schedule)]
    settings += ["roles.searcher.max_new_tokens=12"] if recipe == "ssrl" else []
    for name in (name_in(path) for path in config.round_phases if is_import_path(path)):
        options = {key: FEW[key] for key in config.own_phase[name].options if key in FEW}
        settings += [f"own_phase.{name}.{key}={value}" for key, value in OWN.items()]
        settings += [f"own_phase.{name}.options.{key}={value}" for key, value in options.items()]
    return settings


@pytest.mark.parametrize("recipe", [name + kind for name in SEARCH for kind in ("", "-tiny")])
def test_a_prompt_has_gaps_that_its_role_is_given(recipe):
    for name, role in load_recipe(recipe).roles.items():
        assert set(re.findall(r"\{(\w+)\}", role.prompt)) <= GAPS[name], name


@pytest.mark.parametrize("name", [*SELFPLAY, "spo", "sppo"])
def test_it_learns_as_its_tiny_recipe_does(name):
    long, tiny = load_recipe(name), load_recipe(f"{name}-tiny")
    assert (long.loss, long.advantage) == (tiny.loss, tiny.advantage)
    for role in long.roles.keys() & tiny.roles.keys():
        assert long.advantage_of(role) == tiny.advantage_of(role)


@pytest.mark.parametrize("recipe", [*SEARCH, *SELFPLAY, *IMPROVE, *PREFERENCE])
def test_it_is_planned(recipe, files):
    assert call("train", "--recipe", recipe, "--dry-run").exit_code == 0
    settings = [part for setting in small(recipe, files) for part in ("--set", setting)]
    told = call("train", "--recipe", recipe, "--dry-run", *settings).stdout
    assert told.count("2 optimizer steps") == len(load_recipe(recipe).round_phases)
    planned = call("plan", "--recipe", recipe, "--gpu", "80GB", "--json")
    assert planned.exit_code == 0 and json.loads(planned.stdout)["fits"]
    small_plan = call("plan", "--recipe", recipe, "--gpu", "80GB", *settings)
    assert small_plan.exit_code == 0, small_plan.output


@pytest.mark.parametrize("recipe", [*SEARCH, *SELFPLAY, *IMPROVE, *PREFERENCE])
def test_one_round_of_a_random_model(recipe, files, tmp_path):
    play_a_round(recipe, files, tmp_path)


@pytest.mark.parametrize("recipe", [*SEARCH, *SELFPLAY, *IMPROVE, *PREFERENCE])
def test_one_round_over_real_passages(recipe, real_files, tmp_path):
    play_a_round(recipe, real_files, tmp_path)


def play_a_round(recipe, files, tmp_path):
    train.train(load_recipe(recipe, small(recipe, files)), tmp_path / "run")
    rounds = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [0, 1] and rounds[1]["n_eval"] == 2
    recorded = list((tmp_path / "run" / "trajectories").iterdir())
    assert recorded or recipe == "spear"  # which drops what babbles on
