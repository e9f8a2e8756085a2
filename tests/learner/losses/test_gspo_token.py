"""GSPO-token: a ratio per trajectory, a gradient per token; by a plain loop and by verl's own code."""

from types import SimpleNamespace

import pytest
import torch

from aslfast.config.learning import LossConfig
from aslfast.learner.loss import LossInputs, loss_of
from tests.support.learner.peer_code import functions

LENGTHS = (1, 5, 3, 9)


def inputs(by_token):
    g = torch.Generator().manual_seed(5)
    sequence_L = torch.repeat_interleave(torch.tensor(LENGTHS))
    sampler_L = -2 * torch.rand(len(sequence_L), generator=g, dtype=torch.float64)
    logp_L = (sampler_L + 0.2 * torch.randn(len(sequence_L), generator=g, dtype=torch.float64)).requires_grad_()
    advantage_S = torch.tensor([1.0, -0.5, 2.0, -1.0], dtype=torch.float64)
    advantage_L = advantage_S[sequence_L] + torch.randn(len(sequence_L), generator=g, dtype=torch.float64)
    return LossInputs(
        logp_L, sampler_L, None, sequence_L, advantage_S, 4.0, advantage_L=advantage_L if by_token else None
    )


def gradient(made, level):
    loss, _ = loss_of(made, LossConfig(ratio_level=level, clip_low=0.1, clip_high=0.1, aggregate="sequence_mean"))
    loss.backward()
    return float(loss.detach()), made.logp_L.grad


def by_loop(made):
    """sum over i of mean over t of -min(s_it A_it, clip(s_it) A_it), s_it = sg[s_i] pi_it / sg[pi_it]."""
    total, start = 0.0, 0
    for n in LENGTHS:
        new, old = made.logp_L[start : start + n], made.sampler_logp_L[start : start + n]
        s_i = (new - old).mean().exp().detach()
        for t in range(n):
            s_it, a = s_i * (new[t] - new[t].detach()).exp(), made.advantage_L[start + t]
            total = total - torch.minimum(s_it * a, s_it.clamp(0.9, 1.1) * a) / n
        start += n
    return total / 4.0


def test_it_is_the_published_formula():
    made = inputs(by_token=True)
    wanted = by_loop(made)
    wanted.backward()
    expected, made.logp_L.grad = made.logp_L.grad, None
    loss, found = gradient(made, "sequence_token")
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert 0 < int((found == 0).sum()) < len(found)  # some are clipped


def test_with_one_advantage_a_trajectory_it_is_gspo_and_with_more_it_is_not():
    for by_token in (False, True):
        same = torch.allclose(
            gradient(inputs(by_token), "sequence")[1], gradient(inputs(by_token), "sequence_token")[1], atol=1e-14
        )
        assert same == (not by_token)


def test_it_is_verls():
    made = inputs(by_token=True)

    def padded(value_L):
        return torch.nn.utils.rnn.pad_sequence(value_L.split(LENGTHS), batch_first=True)

    sums = functions("verl", "utils/torch_functional.py", ["masked_sum", "masked_mean"])
    config = SimpleNamespace(clip_ratio=0.1, clip_ratio_low=0.1, clip_ratio_high=0.1, global_batch_info={})
    own = functions(
        "verl", "trainer/ppo/core_algos.py", ["compute_policy_loss_gspo"], verl_F=SimpleNamespace(**sums),
        ActorConfig=SimpleNamespace,
        agg_loss=lambda loss_mat, loss_mask, **_: ((loss_mat * loss_mask).sum(-1) / loss_mask.sum(-1)).mean(),
    )["compute_policy_loss_gspo"]  # fmt: skip
    mask = padded(torch.ones_like(made.sampler_logp_L))
    theirs, _ = own(padded(made.sampler_logp_L), padded(made.logp_L), padded(made.advantage_L), mask, config=config)
    theirs.backward()
    expected, made.logp_L.grad = made.logp_L.grad, None
    loss, found = gradient(made, "sequence_token")
    assert loss == pytest.approx(float(theirs.detach()), abs=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
