"""Clip-cov: which tokens lose their advantage, by hand and against verl's own loss."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.core import Group, Reward, StopReason, Task, Trajectory
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.covariance import without_high_covariance
from aslfast.learner.batch import make_batch
from aslfast.learner.loss import LossInputs, loss_of
from tests.support.learner.peer_code import functions

ADVANTAGES, REWARDS = (1.0, -1.0), (1.0, 0.0)
LOGPROBS = ((-0.5, -4.0, -0.5), (-0.5, -4.0, -3.5, -1.0))


def played():
    task = Task("t", "policy", "p")
    return [
        Trajectory(
            task, tuple(range(n := len(logp) + 1)), (0,) + (1,) * (n - 1), (0.0, *logp), (), StopReason.NO_OUTPUT
        )
        for logp in LOGPROBS
    ]


def chosen(config):
    advantages = [np.full(len(logp), a) for logp, a in zip(LOGPROBS, ADVANTAGES, strict=True)]
    return [values.tolist() for values in without_high_covariance(played(), advantages, config)]


def test_tokens_between_the_bounds_lose_their_advantage():
    """Means: A -1/7, log-prob -2. Covariances: 8/7 x (1.5, -2, 1.5) and -6/7 x (1.5, -2, -1.5, 1)."""
    every = LossConfig(cov_fraction=1.0, cov_low=1.0, cov_high=40.0)
    assert chosen(every) == [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, -1.0]]
    assert chosen(replace(every, cov_high=1.5)) == [[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0, -1.0]]
    assert chosen(replace(every, cov_low=2.0)) == [[1.0, 1.0, 1.0], [-1.0] * 4]  # none


def test_so_many_are_drawn_and_again_the_same():
    for fraction, number in ((0.001, 1), (2 / 7, 2), (0.5, 3), (1.0, 4)):  # max(1, int(fraction 7)), of 4
        config = LossConfig(cov_fraction=fraction)
        found = chosen(config)
        assert [*chain(*found)].count(0.0) == number and found == chosen(config)


def test_another_share_of_the_step_does_not_change_the_draw():
    """The choice is made of the whole step, before it is split into micro-batches or over ranks."""
    group = Group(tuple(played()), tuple(Reward({"r": r}) for r in REWARDS))
    found = lesson([group], AdvantageConfig(), LossConfig(cov_fraction=0.3))
    dropped = [(s.advantage_L == 0).tolist() for s in found.signals]
    assert sum(map(sum, dropped)) == 2  # int(0.3 x 7)
    for trajectory, signal in zip(found.trajectories, found.signals, strict=True):
        alone = make_batch([trajectory], [signal]).advantage_L
        torch.testing.assert_close(alone, torch.from_numpy(signal.advantage_L).float(), rtol=0, atol=0)


def test_the_loss_is_verls():
    """With every candidate drawn; on policy nothing is clipped, so that the candidates are the same."""
    sums = functions("verl", "utils/torch_functional.py", ["masked_sum", "masked_mean"])
    config = SimpleNamespace(
        clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28, global_batch_info={},
        policy_loss=SimpleNamespace(clip_cov_ratio=1.0, clip_cov_lb=1.0, clip_cov_ub=40.0),
    )  # fmt: skip
    theirs_of = functions(
        "verl", "trainer/ppo/core_algos.py", ["compute_policy_loss_clip_cov"], verl_F=SimpleNamespace(**sums),
        AlgoConfig=type("AlgoConfig", (), {}),
        agg_loss=lambda loss_mat, loss_mask, **_: (loss_mat * loss_mask).sum() / loss_mask.sum(),
    )["compute_policy_loss_clip_cov"]  # fmt: skip
    rows = [torch.tensor(logp, dtype=torch.float64) for logp in LOGPROBS]
    old = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    new = old.clone().requires_grad_()
    theirs, _ = theirs_of(old, new, torch.tensor(ADVANTAGES).double()[:, None] * mask, mask, config=config)
    theirs.backward()
    logp = torch.cat(rows).requires_grad_()
    advantage_L = torch.tensor([*chain(*chosen(LossConfig(cov_fraction=1.0)))], dtype=torch.float64)
    sequence_L = torch.tensor([0] * 3 + [1] * 4)
    inputs = LossInputs(logp, torch.cat(rows), None, sequence_L, torch.tensor(ADVANTAGES), 7.0, advantage_L=advantage_L)
    ours, _ = loss_of(inputs, LossConfig())
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    torch.testing.assert_close(logp.grad, new.grad[mask > 0], rtol=0, atol=1e-6)
