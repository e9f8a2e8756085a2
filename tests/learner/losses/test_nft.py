"""Negative-aware fine-tuning: numbers by hand, its gradient on policy, and run-away ratios."""

import math

import pytest
import torch

from aslfast.config.learning import LossConfig
from aslfast.learner.loss import LossInputs, loss_of
from aslfast.learner.losses.nft import nft_loss


def loss_and_slope(ratio, success, rate, weight="linear"):
    """(loss, d loss / d log pi) of one token."""
    log_ratio = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    loss = nft_loss(log_ratio, torch.tensor([success]), torch.tensor([rate], dtype=torch.float64), weight)
    loss.sum().backward()
    return float(loss.detach()), float(log_ratio.grad)


def test_numbers_by_hand():
    assert loss_and_slope(2.0, True, 0.25) == pytest.approx((-0.75 * math.log(2), -0.75))
    # (1 - 0.25 x 0.5) / 0.75 = 7/6 is above the floor: d/dlogR of -log(1 - q R) is q R / (1 - q R) = 1/7
    assert loss_and_slope(0.5, False, 0.25) == pytest.approx((-0.75 * math.log(7 / 6), 0.75 / 7))
    # (1 - 0.25 x 2) / 0.75 = 2/3 is below it: the value is log 1, the slope q R / (1 - q) = 2/3 over the floor
    assert loss_and_slope(2.0, False, 0.25) == pytest.approx((0.0, 0.5))
    assert loss_and_slope(2.0, False, 0.25, "one") == pytest.approx((0.0, 2 / 3))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_on_policy_it_is_a_policy_gradient(rate):
    """The paper's equivalence: "linear" is Dr. GRPO's advantage r - q, "root" GRPO's (r - q) / sqrt(q (1 - q))."""
    for success in (True, False):
        centred, std = success - rate, math.sqrt(rate * (1 - rate))
        assert loss_and_slope(1.0, success, rate)[1] == pytest.approx(-centred)
        assert loss_and_slope(1.0, success, rate, "root")[1] == pytest.approx(-centred / std)


@pytest.mark.parametrize("log_ratio", [-400.0, -19.0, 19.0, 400.0])
@pytest.mark.parametrize("success", [True, False])
def test_a_run_away_ratio_stays_finite(log_ratio, success):
    logp = torch.tensor([log_ratio], requires_grad=True)  # float32, in which a floor added back would round to log 0
    loss = nft_loss(logp, torch.tensor([success]), torch.tensor([0.5]), "linear").sum()
    loss.backward()
    assert math.isfinite(float(loss.detach())) and math.isfinite(float(logp.grad))
    assert (float(logp.grad) == 0) == (abs(log_ratio) > 20)


def test_it_needs_the_rate_of_the_group():
    logp = torch.zeros(2, requires_grad=True)
    inputs = LossInputs(logp, torch.zeros(2), None, torch.tensor([0, 0]), torch.ones(1), 2.0)
    with pytest.raises(ValueError, match="without its group's success rate"):
        loss_of(inputs, LossConfig("nft"))


def test_its_kl_is_the_surrogates():
    """k3 to the base is added as for any kind, and measured."""
    logp = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([-1.5, -1.8], dtype=torch.float64)
    inputs = LossInputs(
        logp, logp.detach(), base, torch.tensor([0, 0]), torch.ones(1).double(), 2.0,
        success_S=torch.tensor([True]), rate_S=torch.tensor([0.5]).double(),
    )  # fmt: skip
    loss, metrics = loss_of(inputs, LossConfig("nft", kl_coef=0.1))
    k3 = [math.exp(b - p) - (b - p) - 1 for p, b in zip((-1.0, -2.0), (-1.5, -1.8), strict=True)]
    assert float(loss.detach()) == pytest.approx(0.1 * sum(k3) / 2) and float(metrics.kl_ref) == pytest.approx(
        sum(k3) / 2
    )
