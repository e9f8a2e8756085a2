"""The squared loss: numbers by hand, its gradient, and what does not go with it."""

import pytest
import torch

from aslfast.config import load_recipe
from aslfast.config.learning import LossConfig
from aslfast.errors import UserError
from aslfast.learner.loss import LossInputs, loss_of

CONFIG = LossConfig("squared", aggregate="sequence_mean")


def inputs(logp):
    """A trajectory of two tokens with the target 2, one of a token with the target -1."""
    return LossInputs(
        logp, torch.tensor([-1.0, -2.0, -0.5]).double(), None, torch.tensor([0, 0, 1]),
        torch.tensor([2.0, -1.0]).double(), normalizer=2.0,
    )  # fmt: skip


def test_numbers_by_hand():
    logp = torch.tensor([-0.5, -1.8, -0.9]).double().requires_grad_()
    loss, _ = loss_of(inputs(logp), CONFIG)
    # log-ratios 0.5 + 0.2 and -0.4: ((0.7 - 2)^2 + (-0.4 + 1)^2) / 2
    assert float(loss.detach()) == pytest.approx((1.69 + 0.36) / 2)
    loss.backward()
    assert logp.grad.tolist() == pytest.approx([-1.3, -1.3, 0.6])  # 2 (x - target) / 2


def test_on_policy_it_is_reinforce_with_twice_the_target():
    logp = torch.tensor([-1.0, -2.0, -0.5]).double().requires_grad_()
    loss_of(inputs(logp), CONFIG)[0].backward()
    assert logp.grad.tolist() == pytest.approx([-2.0, -2.0, 1.0])


def test_a_trajectory_counts_once():
    with pytest.raises(UserError, match=r"with loss\.kind=squared, one value a trajectory, set it to sequence_mean"):
        load_recipe("tiny", ["loss.kind=squared", "loss.aggregate=token_mean"])
    with pytest.raises(UserError, match=r"loss\.tis_cap is of kinds ppo and cispo; with loss\.kind=squared"):
        load_recipe("tiny", ["loss.kind=squared", "loss.aggregate=sequence_mean", "loss.tis_cap=2"])
