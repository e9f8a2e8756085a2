"""The lab, files and one's own: three environments, one interface."""

from __future__ import annotations

import re

import pytest

from aslfast.config import load_recipe
from aslfast.data.qa_dataset import write_questions
from aslfast.environment import Environment
from aslfast.errors import UserError
from aslfast.index.bm25 import BM25Index
from aslfast.trainer.datasets import FileEnvironment, datasets_of, file_datasets, own_datasets
from aslfast.trainer.lab_datasets import LabEnvironment, lab_questions
from aslfast.trainer.preflight.dry_run import describe, evaluation_trajectories
from aslfast.trainer.provenance import places
from tests.support.scripted_world import WORLD

OWN = "tests.support.own.environments"
PLAIN = [f"environment={OWN}:Plain"]


@pytest.fixture
def files(tmp_path):
    BM25Index.build(WORLD.passages(), tmp_path / "idx", threads=1)
    (tmp_path / "topics.txt").write_text("\n".join(WORLD.facts))
    write_questions(tmp_path / "q.parquet", lab_questions(WORLD, 0, 4))
    keys = {"index": "idx", "topics": "topics.txt", "eval_questions": "q.parquet", "labelled": "q.parquet"}
    return ["data.lab=false", *(f"data.{key}={tmp_path / name}" for key, name in keys.items())]


def test_the_files_are_an_environment(files):
    config = load_recipe("search-r1-tiny", [*files, "data.eval_count=3"])
    environment, datasets = FileEnvironment(config), file_datasets(config)
    assert isinstance(environment, Environment) and not environment.gives("oracle")
    assert environment.tasks() == datasets.labelled == lab_questions(WORLD, 0, 4)
    assert [task.question for task in datasets.policy_evals] == [q.text for q in lab_questions(WORLD, 0, 4)[:3]]
    assert datasets.eval_index is datasets.index and datasets.oracle is None and datasets.environment is None
    assert datasets.topics == list(WORLD.facts)


def test_the_lab_is_an_environment(tmp_path):
    config = load_recipe("search-r1-tiny", ["data.eval_count=3"])
    lab = LabEnvironment(config, tmp_path)
    datasets = datasets_of(lab, config)
    held_out, learned = lab.eval_tasks()[0], lab.tasks()[0]
    assert datasets.oracle(held_out.text) == held_out.reference and datasets.train_oracle(held_out.text) is None
    assert datasets.train_oracle(learned.text) == learned.reference and datasets.oracle(learned.text) is None
    assert len(datasets.policy_evals) == 3 and len(datasets.labelled) == config.data.labelled_count
    assert datasets.index is not datasets.eval_index


def test_an_own_environment_goes_before_lab_and_files(files):
    lab = own_datasets(load_recipe("search-r1-tiny", PLAIN))
    assert lab.index is None and [task.id for task in lab.policy_evals] == ["eval-t"] and lab.environment
    searched = own_datasets(load_recipe("search-r1-tiny", [*PLAIN, *files]))
    assert searched.index and searched.index is searched.eval_index and searched.labelled[0].references == ("farmer",)


def test_its_source_and_its_files_are_inputs_of_the_run(files, tmp_path):
    named = places(load_recipe("search-r1-tiny", [*PLAIN, *files]))
    assert re.fullmatch(r".*support/own/environments\.py", named["environment"])
    assert named["data.index"] == f"{tmp_path}/idx"


def test_a_plan_names_it():
    config = load_recipe("search-r1-tiny", [*PLAIN, "data.eval_count=7"])
    assert f"from {OWN}:Plain" in describe(config) and evaluation_trajectories(config) == 7


def test_an_error_before_the_run_leaves_nothing(tmp_path):
    from aslfast.trainer.train import train

    with pytest.raises(UserError, match=r"NaN\.step returned nan"):
        train(load_recipe("search-r1-tiny", [f"environment={OWN}:NaN", "policy.reward=environment"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
