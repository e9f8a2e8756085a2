"""What ranks send each other arrives as it was. Real processes over gloo."""

import math
import os
from dataclasses import replace

import torch

from aslfast.core import Group, Reward
from aslfast.distributed.collectives import all_gather_objects, broadcast_in_group, broadcast_object
from aslfast.distributed.process_group import SINGLE_PROCESS, init_process_group
from tests.support.rank_processes import exit_codes, ranks_of
from tests.support.token_streams import silent, trajectory

PATIENCE_S = 120


def exchange_as_rank(folder):
    """Texts, numbers and groups of each rank, and what rank 0 broadcasts."""
    with init_process_group("aslfast train --resume run") as ranks:
        t = replace(trajectory(9, ranks.rank), logprobs=tuple(-0.1 * i for i in range(9)))
        groups = [Group((t,), (Reward({"judge": 1 / 3}),), (silent(4, 7),))] * ranks.rank
        assert all_gather_objects(ranks, groups, list[Group]) == [
            [Group((replace(trajectory(9, r), logprobs=t.logprobs),), (Reward({"judge": 1 / 3}),), (silent(4, 7),))] * r
            for r in range(ranks.size)
        ]
        assert ranks.all_gather(b"\0x" * ranks.rank) == [b"\0x" * r for r in range(ranks.size)]
        assert ranks.broadcast(f"of {ranks.rank}".encode()) == b"of 0" and ranks.broadcast(b"") == b""
        record = {"rank": ranks.rank, "loss": 1 / 3 + ranks.rank, "grad_norm": math.nan}
        assert broadcast_object(ranks, record, dict) == {"rank": 0, "loss": 1 / 3, "grad_norm": None}
        numbers = [torch.tensor([ranks.rank, 1.5]), torch.full((2, 2), 2.0)]
        ranks.all_reduce_sum(numbers)
        assert numbers[0].tolist() == [3.0, 4.5] and numbers[1].tolist() == [[6.0, 6.0]] * 2
        ranks.all_reduce_max(greatest := [torch.tensor([float(ranks.rank), -1.0])])
        assert greatest[0].tolist() == [2.0, -1.0]
        (folder / str(ranks.rank)).touch()


def test_what_travels_arrives_as_it_was(tmp_path):
    assert exit_codes(ranks_of(3, exchange_as_rank, tmp_path), PATIENCE_S) == [0, 0, 0]
    assert len(os.listdir(tmp_path)) == 3


def answer_as_rank(folder):
    """Two groups of two: each leader's floats, to the bit, on both of its ranks."""
    with init_process_group("aslfast train --resume run") as ranks:
        ranks.form_model_parallel_groups(2)
        value = [math.pi * ranks.rank, -1e-30] if ranks.is_group_leader else None
        assert broadcast_in_group(ranks, value, list[float]) == [math.pi * (ranks.rank // 2 * 2), -1e-30]
        (folder / str(ranks.rank)).touch()


def test_group_leaders_answer_for_their_groups(tmp_path):
    assert exit_codes(ranks_of(4, answer_as_rank, tmp_path), PATIENCE_S) == [0] * 4
    assert len(os.listdir(tmp_path)) == 4


def test_one_process_keeps_its_value():
    """NaN included: nothing is encoded."""
    value = [math.nan]
    assert all_gather_objects(SINGLE_PROCESS, value, list[float])[0] is value
    assert broadcast_object(SINGLE_PROCESS, value, list[float]) is value
    assert broadcast_in_group(SINGLE_PROCESS, [0.1], list[float]) == [0.1]
