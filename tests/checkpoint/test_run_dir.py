"""What a run writes is whole or not there, also on a full disk; trajectories read back as they were."""

import json

import pyarrow.parquet as pq
import pytest

from aslfast.checkpoint.commits import PendingCommit
from aslfast.checkpoint.null_run_dir import NullRunDir
from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import TrainState
from aslfast.config import load_recipe
from aslfast.core import Reward, StopReason, Task, Trajectory, Turn
from aslfast.data.trajectories import Record, join_trajectories, write_trajectories
from aslfast.errors import UserError
from aslfast.files.jsonl import append_line, rewrite_lines
from tests.support.tiny_models import small_disk
from tests.support.token_streams import trajectory


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


def test_lines_are_whole_on_a_full_disk(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_line(file, {"step": 1})
    before = file.read_bytes()
    with small_disk(len(before) + 5), pytest.raises(OSError):
        append_line(file, {"step": 2, "what": "a line longer than five bytes"})
    assert file.read_bytes() == before
    append_line(file, {"step": 2})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]


def test_files_are_whole_on_a_full_disk(tmp_path):
    records = [Record(trajectory(300, seed)) for seed in range(20)]
    with small_disk(1000), pytest.raises(OSError):
        write_trajectories(tmp_path / "t.parquet", records)
    with small_disk(10), pytest.raises(UserError, match=r"run: cannot be written .*; free the space, or"):
        RunDir.create(tmp_path / "run", load_recipe("tiny"))
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_lines_are_made_those_of_the_ledger(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "share": 0.1}, {"step": 2, "share": None}]
    for line in lines:
        append_line(file, line)
    whole, kept = file.read_bytes(), file.stat().st_ino
    rewrite_lines(file, lines)
    assert file.stat().st_ino == kept, "what is right is left alone"
    for damaged in (whole[:-3], whole + b'{"step": 3}\n', b"", whole.splitlines(True)[0]):
        file.write_bytes(damaged)
        rewrite_lines(file, lines)
        assert file.read_bytes() == whole
    rewrite_lines(file, [])
    assert not any(tmp_path.iterdir())


def test_parts_become_one_file_in_their_order(tmp_path):
    """As if all had been written at once; also of no parts at all."""
    records = [Record(trajectory(30, seed), None, 1, seed) for seed in range(6)]
    parts = [tmp_path / f"part-{i}.parquet" for i in range(3)]
    for i, part in enumerate(parts):
        write_trajectories(part, records[2 * i : 2 * i + 2])
    join_trajectories(tmp_path / "whole.parquet", parts)
    write_trajectories(tmp_path / "once.parquet", records)
    whole = pq.read_table(tmp_path / "whole.parquet")
    assert whole == pq.read_table(tmp_path / "once.parquet") and len(whole) == 6
    join_trajectories(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet") == whole.slice(0, 0)


def test_trajectories_read_back(tmp_path):
    task = Task("t1", "generator", "ask", "why?", ("Oslo", "oslo"), 2)
    turns = (Turn("prompt", 0, 2, "ask"), Turn("sampled", 2, 4, " <think>hm</think>\n", 1), Turn("tool", 4, 5, "found"))
    stream = (1, 2, 3, 4, 5), (0, 0, 1, 1, 0), (0.0, 0.0, -0.5, -1.25, 0.0)
    made = Trajectory(task, *stream, turns, StopReason.FINISHED, "Who?", "Oslo", 3)
    given = Reward({"entropy": 0.5, "format": 0.25})
    write_trajectories(tmp_path / "t.parquet", [Record(made, given, 2, 7), Record(trajectory(4, 1))])
    first, second = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert first == {
        "task_id": "t1", "role": "generator", "round": 2, "step": 7, "adapter_version": 3, "question": "why?",
        "references": ["Oslo", "oslo"], "output": "Who?", "output_answer": "Oslo", "stop": "finished", "reward": 0.75,
        "reward_parts": '{"entropy": 0.5, "format": 0.25}',
        "conversation": "=== prompt ===\nask\n=== model ===\n<think>hm</think>\n=== tool ===\nfound",
        "token_ids": [1, 2, 3, 4, 5], "loss_mask": [0, 0, 1, 1, 0], "logprobs": [0.0, 0.0, -0.5, -1.25, 0.0],
        "cached_tokens": [1],
    }  # fmt: skip
    assert second["output"] is None and second["reward"] is None and second["reward_parts"] is None


def test_types_are_checked_where_they_are_made():
    task = Task("t", "policy", "p")
    with pytest.raises(ValueError, match="2 tokens, 1 mask, 2 logprobs"):
        Trajectory(task, (1, 2), (1,), (0.0, 0.0), (), StopReason.NO_OUTPUT)
    with pytest.raises(ValueError, match="stop=finished alone"):
        Trajectory(task, (1,), (1,), (0.0,), (), StopReason.NO_OUTPUT, "x")
    with pytest.raises(ValueError, match="stop=finished alone"):
        Trajectory(task, (1,), (1,), (0.0,), (), StopReason.FINISHED)
    with pytest.raises(ValueError, match="unknown role"):
        Task("t", "judge", "p")  # type: ignore[arg-type]


def test_a_null_run_dir_keeps_nothing(tmp_path):
    """What every rank but the first has: no commit changes it, and it is gone after it is closed."""
    with NullRunDir() as run:
        (run.path / "steps").mkdir()
        run.commit(TrainState(round=1), PendingCommit("round", lines={"rounds.jsonl": {"round": 0}}))
        run.finish()
        assert not (run.files or run.history or run.is_finished(0)) and run.evaluated
    assert not run.path.exists()
