"""The folder of a run: made only where nothing is, whole or not there on a full disk."""

import pytest

from aslfast.checkpoint.commits import PendingCommit
from aslfast.checkpoint.null_run_dir import NullRunDir
from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import TrainState
from aslfast.config import load_recipe
from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from tests.support.faults.small_disk import small_disk


def test_a_new_run_holds_its_configuration(tmp_path):
    config = load_recipe("tiny", ["policy.steps=3"])
    run = RunDir.create(tmp_path / "a" / "run", config)
    assert load_recipe(str(run.path / "config.toml")) == config
    RunDir.create(_made(tmp_path / "empty"), config)


def _made(folder):
    folder.mkdir()
    return folder


def test_what_exists_is_not_written_over(tmp_path):
    config = load_recipe("tiny")
    full = RunDir.create(tmp_path / "run", config).path
    (tmp_path / "file").write_text("mine")
    for path in (full, tmp_path / "file"):
        with pytest.raises(UserError, match=rf"{path.name}: already exists and is not empty; choose another --out"):
            RunDir.create(path, config)
    assert (tmp_path / "file").read_text() == "mine"


def test_files_are_whole_on_a_full_disk(tmp_path):
    with small_disk(10), pytest.raises(UserError, match=r"run: cannot be written .*; free the space, or"):
        RunDir.create(tmp_path / "run", load_recipe("tiny"))
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_types_are_checked_where_they_are_made():
    task = Task("t", "policy", "p")
    with pytest.raises(ValueError, match="2 tokens, 1 mask, 2 logprobs"):
        Trajectory(task, (1, 2), (1,), (0.0, 0.0), (), StopReason.NO_OUTPUT)
    with pytest.raises(ValueError, match="stop=finished alone"):
        Trajectory(task, (1,), (1,), (0.0,), (), StopReason.NO_OUTPUT, "x")
    with pytest.raises(ValueError, match="stop=finished alone"):
        Trajectory(task, (1,), (1,), (0.0,), (), StopReason.FINISHED)


def test_a_null_run_dir_keeps_nothing(tmp_path):
    """What every rank but the first has: no commit changes it, and it is gone after it is closed."""
    with NullRunDir() as run:
        (run.path / "steps").mkdir()
        run.commit(TrainState(round=1), PendingCommit("round", lines={"rounds.jsonl": {"round": 0}}))
        run.finish()
        assert not (run.files or run.history or run.is_finished(0)) and run.evaluated
    assert not run.path.exists()
