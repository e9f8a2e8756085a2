"""Trajectories as Parquet: they read back as they were, join in order, and are whole on a full disk."""

import pyarrow.parquet as pq
import pytest

from aslfast.core import Reward, StopReason, Task, Trajectory, Turn
from aslfast.data.trajectories import Record, join_trajectories, write_trajectories
from tests.support.faults.small_disk import small_disk
from tests.support.token_streams import trajectory


def test_a_full_disk_leaves_no_file(tmp_path):
    with small_disk(1000), pytest.raises(OSError):
        write_trajectories(tmp_path / "t.parquet", [Record(trajectory(300, seed)) for seed in range(20)])
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
