"""group_advantage against the textbook formula in plain Python, and the traps that other implementations fall into.

Tolerance: the arithmetic is float64 and the result is rounded once to float32, so 1 unit in the last place (1.2e-7
relative), plus the cancellation of float64 in the centred sums, stated where it is not negligible.
"""

import math
import statistics

import pytest
import torch

from aslfast_kernels import group_advantage

ULP32 = torch.finfo(torch.float32).eps


def naive(rewards, ids, baseline, scale, eps):
    """One trajectory at a time, with the statistics module (exact rational sums)."""
    out = []
    for reward, own in zip(rewards, ids, strict=True):
        group = [r for r, i in zip(rewards, ids, strict=True) if i == own]
        spread = {"group": statistics.pstdev(group), "batch": statistics.pstdev(rewards), "none": 1.0 - eps}[scale]
        others_sum = math.fsum(group) - reward
        degenerate = len(set(group)) == 1
        if baseline == "none":
            difference = reward
        elif degenerate:
            difference = 0.0
        elif baseline == "mean":
            difference = reward - statistics.fmean(group)
        else:
            difference = reward - others_sum / (len(group) - 1)
        out.append(0.0 if spread == 0 else difference / (spread + eps))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "none"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uneven_groups_in_any_order(baseline, scale, dtype):
    """Groups of 1, 2, 5, 8 and 3 equal ones, with negative and huge ids, shuffled."""
    g = torch.Generator().manual_seed(0)
    ids = torch.tensor([7] + [-3] * 2 + [2**40] * 5 + [0] * 8 + [11] * 3)
    rewards = torch.randn(len(ids), generator=g)
    rewards[ids == 11] = 0.1
    order = torch.randperm(len(ids), generator=g)
    rewards, ids = rewards[order].to(dtype), ids[order]
    got = group_advantage(rewards, ids, baseline=baseline, scale=scale, eps=1e-3)
    want = naive(rewards.double().tolist(), ids.tolist(), baseline, scale, 1e-3)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), want, rtol=1e-13 if dtype == torch.float64 else ULP32, atol=1e-13)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("singleton", ["zero", "keep"])
def test_sample_std_and_groups_of_one(scale, singleton):
    """As verl's compute_grpo_outcome_advantage: n - 1, and for a group of one mean 0 and std 1; or that group at 0."""
    rewards, ids = [0.3, -1.0, 2.0, 0.25, 1.5, 0.5, 0.5], [4, 4, 4, 9, 2, 7, 7]
    got = group_advantage(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(ids),
        scale=scale,
        eps=1e-3,
        ddof=1,
        singleton=singleton,
    )
    for reward, own, value in zip(rewards, ids, got.tolist(), strict=True):
        group = [r for r, i in zip(rewards, ids, strict=True) if i == own]
        alone = len(group) == 1
        spread = {"batch": statistics.stdev(rewards), "none": 1.0 - 1e-3}.get(scale)
        spread = spread or (1.0 if alone else statistics.stdev(group))
        difference = reward * (singleton == "keep") if alone else reward - statistics.fmean(group)
        assert value == pytest.approx(0.0 if spread == 0 else difference / (spread + 1e-3), rel=1e-13, abs=1e-15)


def test_known_values():
    """Rewards 0, 0, 0, 1: mean 1/4, population std sqrt(3)/4, so -1/sqrt(3) three times and sqrt(3)."""
    rewards, ids = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.int64)
    third, root = 1 / math.sqrt(3), math.sqrt(3)
    want = torch.tensor([-third, -third, -third, root])
    torch.testing.assert_close(group_advantage(rewards, ids, eps=0.0), want, rtol=ULP32, atol=0)
    leave_one_out = group_advantage(rewards, ids, baseline="leave_one_out", scale="none")
    torch.testing.assert_close(leave_one_out, torch.tensor([-1 / 3, -1 / 3, -1 / 3, 1.0]), rtol=ULP32, atol=0)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_one_sample_and_flat_groups_are_exactly_zero(baseline, scale):
    """0.1 seven times: the mean is not 0.1 in binary, and eps = 0 would make the difference anything."""
    rewards = torch.tensor([5.0] + [0.1] * 7 + [0.0, 1.0], dtype=torch.float64)
    ids = torch.tensor([1] + [2] * 7 + [3, 3])
    got = group_advantage(rewards, ids, baseline=baseline, scale=scale, eps=0.0)
    assert got[:8].tolist() == [0.0] * 8
    assert got[8] < 0 < got[9]


def test_flat_batch_without_baseline_is_not_divided_by_zero():
    rewards, ids = torch.full((7,), 0.1, dtype=torch.float64), torch.arange(7) // 2  # their mean is not 0.1
    assert group_advantage(rewards, ids, baseline="none", scale="batch", eps=0.0).tolist() == [0.0] * 7
    assert torch.equal(group_advantage(rewards, ids, baseline="none", scale="none"), rewards)


def test_low_variance_group_keeps_unit_scale():
    """1000 +- 1e-3 in float32: E[x^2] - E[x]^2 is off by far more than the variance; centred sums are not."""
    step = 2.0**-10
    rewards = torch.tensor([1000 - step, 1000 + step] * 4)
    got = group_advantage(rewards, torch.zeros(8, dtype=torch.int64), eps=0.0)
    assert got.tolist() == [-1.0, 1.0] * 4
    shrunk = (rewards.square().mean() - rewards.mean().square()).clamp(min=0).sqrt()
    assert abs(float(shrunk) / step - 1) > 0.5  # so this test would see that formula


def test_shift_of_rewards_changes_nothing():
    g = torch.Generator().manual_seed(1)
    rewards, ids = torch.randint(0, 9, (40,), generator=g).float(), torch.randint(0, 6, (40,), generator=g)
    for baseline in ("mean", "leave_one_out"):
        base = group_advantage(rewards, ids, baseline=baseline)
        moved = group_advantage(rewards + 4096, ids, baseline=baseline)
        # float64 rounds 4096 to 9e-13
        torch.testing.assert_close(base, moved, rtol=2 * ULP32, atol=1e-11)


def test_broadcast_to_tokens():
    rewards, ids = torch.tensor([1.0, 0.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1])
    sequences = torch.tensor([3, 3, -1, 0, 2, 2, -1, 1, 3], dtype=torch.int32)
    got = group_advantage(rewards, ids, eps=0.0, sequence_ids_T=sequences)
    assert got.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0, 1.0, 0.0, -1.0, -1.0]


def test_no_trajectories():
    empty = group_advantage(torch.zeros(0), torch.zeros(0, dtype=torch.int64), sequence_ids_T=torch.tensor([-1, -1]))
    assert empty.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rewards_N": torch.tensor([0.0, 1.0, torch.nan])}, ValueError, r"rewards_N\[2\]: got nan"),
        ({"rewards_N": torch.tensor([0.0, -torch.inf, 0.0])}, ValueError, r"rewards_N\[1\]: got -inf"),
        ({"rewards_N": torch.tensor([0, 1, 2])}, TypeError, "rewards_N: got torch.int64"),
        ({"group_ids_N": torch.tensor([0, 1])}, ValueError, r"group_ids_N: got shape \[2\], expected \[3\]"),
        ({"group_ids_N": torch.zeros(3)}, TypeError, "group_ids_N: got torch.float32"),
        ({"sequence_ids_T": torch.tensor([0, 3])}, ValueError, r"sequence_ids_T\[1\]: got 3, expected -1..2"),
        ({"sequence_ids_T": torch.tensor([-2])}, ValueError, r"sequence_ids_T\[0\]: got -2"),
        ({"baseline": "median"}, ValueError, "baseline: got 'median'"),
        ({"scale": "std"}, ValueError, "scale: got 'std'"),
        ({"ddof": 2}, ValueError, "ddof: got 2, expected one of 0, 1"),
        ({"singleton": "mean"}, ValueError, "singleton: got 'mean'"),
        ({"eps": -1.0}, ValueError, "eps: got -1.0"),
        ({"impl": "triton"}, ValueError, 'pass impl="torch"'),
    ],
)
def test_refusals(change, error, message):
    arguments = {"rewards_N": torch.tensor([0.0, 1.0, 2.0]), "group_ids_N": torch.tensor([0, 0, 1])}
    group_advantage(**arguments)
    with pytest.raises(error, match=message):
        group_advantage(**(arguments | change))
