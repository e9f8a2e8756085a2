"""Commits to a run's folder, and its recovery: what is committed is whole, all else is removed."""

import json

import pytest

from aslfast.checkpoint.commits import PendingCommit
from aslfast.checkpoint.ledger import Ledger
from aslfast.checkpoint.recovery import recover
from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import TrainState, snapshot
from aslfast.config import load_recipe
from aslfast.core import Question
from aslfast.errors import UserError
from tests.support.faults.small_disk import small_disk


def question(text):
    return Question("qg1-1", text, ("Oslo",), 1, round=1)


def a_run(path):
    """Return a run of three commits with a file each, of which the second drops the first's file; and its state."""
    run = RunDir.create(path, load_recipe("tiny"))
    state = TrainState(pool={"who is 1": question("who is 1?")})
    (path / "steps").mkdir()
    for number, dropped in ((1, ()), (2, ("steps/1",)), (3, ())):
        file = path / "steps" / str(number)
        file.write_bytes(bytes([number]) * 1000)
        state.step = number
        run.commit(state, PendingCommit("step", [file], dropped, {"metrics.jsonl": {"step": number}}))
    return run, state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_dropped_file_is_removed_by_the_next_commit(tmp_path):
    run, state = a_run(tmp_path / "run")
    assert names(run.path / "steps") == ["2", "3"]
    run.commit(state, PendingCommit("step", dropped=["steps/2"]))
    assert names(run.path / "steps") == ["2", "3"] and set(run.files) == {"steps/3"}
    run.commit(state, PendingCommit("step"))
    assert names(run.path / "steps") == ["3"]


def test_a_commit_holds_what_changed_since_the_one_before(tmp_path):
    run, _ = a_run(tmp_path / "run")
    run.close()
    ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
    first, *later = ledger.read()
    ledger.close()
    assert set(first.state) == {"pool", "step"} and [commit.state for commit in later] == [{"step": 2}, {"step": 3}]


def test_the_last_commit_can_be_undone_after_a_resume_too(tmp_path):
    run, state = a_run(tmp_path / "run")
    state.step = 4
    (run.path / "steps" / "4").write_bytes(b"4")
    run.commit(state, PendingCommit("step", [run.path / "steps" / "4"], ["steps/3"]))
    run.close()
    RunDir.resume(run.path).close()
    (run.path / "steps" / "4").write_bytes(b"")
    with RunDir.resume(run.path) as resumed:
        resumed.restore(state)
        assert len(resumed.warnings) == 1 and state.step == 3 and set(resumed.files) == {"steps/2", "steps/3"}
    assert names(run.path / "steps") == ["2", "3"]


def test_uncommitted_files_are_removed(tmp_path):
    run, state = a_run(tmp_path / "run")
    run.close()
    path = run.path
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    for leftover in ("steps/4", "steps/.5.partial", "trajectories/round-001-grm.parquet", ".rounds.jsonl.partial"):
        (path / leftover).parent.mkdir(exist_ok=True)
        (path / leftover).write_text("x")
    for leftover in ("adapters/policy/v0003", "adapters/policy/.v0004.partial"):
        (path / leftover).mkdir(parents=True)
        (path / leftover / "adapter_config.json").write_text("{}")
    for mine in ("notes.txt", "adapters/policy/notes.txt", "trajectories/mine.parquet"):
        (path / mine).write_text("mine")
    with RunDir.resume(path) as resumed:
        assert not resumed.warnings and set(resumed.files) == {"steps/2", "steps/3"}
        back = TrainState()
        resumed.restore(back)
        assert back == state
    assert names(path / "steps") == ["2", "3"] and names(path / "trajectories") == ["mine.parquet"]
    assert names(path / "adapters" / "policy") == ["notes.txt"] and (path / "notes.txt").exists()
    assert [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 3},
    ]  # fmt: skip


def test_a_full_disk_loses_only_what_was_not_committed(tmp_path):
    """The ledger cannot grow: an error that suggests what to do, and the next attempt works."""
    run, state = a_run(tmp_path / "run")
    ledger = run.path / "ledger.sqlite"
    before, step_4 = snapshot(state), PendingCommit("step", lines={"metrics.jsonl": {"step": 4}})
    state.pool = {f"question {i}": question(f"who is {i}?") for i in range(1000)}
    with small_disk(ledger.stat().st_size), pytest.raises(UserError, match=r"run: cannot be written \(.*\); free"):
        run.commit(state, step_4)
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 3
    run.close()
    with RunDir.resume(run.path) as again:
        back = TrainState()
        again.restore(back)
        assert back == before
        again.commit(state, step_4)
    with RunDir.resume(run.path) as again:
        again.restore(back)
        assert back == state


def test_damage_in_two_commits_is_refused(tmp_path):
    run, _ = a_run(tmp_path / "run")
    run.close()
    for number in (2, 3):
        (run.path / "steps" / str(number)).write_bytes(b"")
    ledger = Ledger(run.path / "ledger.sqlite")
    with pytest.raises(UserError, match=r"steps/2: damaged \(0 bytes, expected 1000\); restore a copy of it"):
        recover(run.path, ledger)
    assert names(run.path / "steps") == ["2", "3"]
    ledger.close()
