"""Trajectories as Parquet: they read back as they were, join in order, and are whole on a full disk."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from aslfast.core import Reward, Span, StopReason, Task, Trajectory, Turn
from aslfast.data.trajectories import Record, join_trajectories, spans_of, write_trajectories
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
    turns = (
        Turn("prompt", 0, 2, "ask"),
        Turn("sampled", 2, 4, " <think>hm</think>\n", 1),
        Turn("tool", 4, 5, "found", passages=("b", "a")),
    )
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
        "cached_tokens": [1], "passages": [["b", "a"]], "spans": None,
    }  # fmt: skip
    assert second["output"] is None and second["reward"] is None and second["reward_parts"] is None
    assert second["passages"] == [] and spans_of(second) == ()


SPANS = (
    Span("first", 0, 2), Span("first", 2, 5, -0.1, kl_weight=1 / 3), Span('said "so"', 1, 4, 0.0, learn=False),
)  # fmt: skip


def test_spans_read_back_to_the_last_bit(tmp_path):
    write_trajectories(
        tmp_path / "t.parquet", [Record(replace(trajectory(5, 1), spans=SPANS)), Record(trajectory(4, 2))]
    )
    first, second = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert spans_of(first) == SPANS and spans_of(second) == ()


@pytest.mark.parametrize(
    "written", ['[{"name": "a", "start": 3, "end": 3}]', '[{"name": "a", "start": 0}]', "[", '{"a": 1}']
)
def test_what_is_no_span_is_refused(written):
    with pytest.raises(ValueError):
        spans_of({"spans": written})


def test_files_from_before_ids_and_spans_are_read_and_joined(tmp_path):
    write_trajectories(tmp_path / "new.parquet", [Record(trajectory(5, 1))])
    old = pq.read_table(tmp_path / "new.parquet").drop_columns(["passages", "spans"])
    pq.write_table(old, tmp_path / "old.parquet")
    join_trajectories(tmp_path / "both.parquet", [tmp_path / "old.parquet", tmp_path / "new.parquet"])
    first, second = pq.read_table(tmp_path / "both.parquet").to_pylist()
    assert first["token_ids"] == second["token_ids"] and (first["passages"], second["passages"]) == (None, [])
    assert spans_of(old.to_pylist()[0]) == spans_of(first) == ()


def test_rows_without_ids_and_spans_take_no_more_room(tmp_path):
    """A step's file of 64 rows of 200 tokens, against the same one without the columns."""
    write_trajectories(tmp_path / "with.parquet", [Record(trajectory(200, seed)) for seed in range(64)])
    without = pq.read_table(tmp_path / "with.parquet").drop_columns(["passages", "spans"])
    pq.write_table(without, tmp_path / "without.parquet", compression="zstd")
    sizes = [(tmp_path / name).stat().st_size for name in ("with.parquet", "without.parquet")]
    assert sizes[0] <= 1.02 * sizes[1]
