"""sft_loss and nft_loss against rules in Python floats, values and gradients by hand, float64; 1e-12 relative."""

import math

import pytest
import torch

from aslfast_kernels import aggregate_loss, group_advantage, nft_loss, policy_loss, sft_loss
from tests.support.kernels.objective_checks import by_token, check, masked_batch


@pytest.fixture
def b():
    """Return the batch with a share of right answers and an outcome for each token, NaN where masked."""
    made = masked_batch()
    g = torch.Generator().manual_seed(5)
    made["rate_T"] = (0.1 + 0.8 * torch.rand(60, generator=g).double()).masked_fill(~made["mask_T"], torch.nan)
    made["success_T"] = torch.rand(60, generator=g) < 0.5
    return made


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_sft(dynamic, weighted, b):
    def rule(new, weight=1.0):
        slope = -weight * (math.exp(new) if dynamic else 1.0)
        return slope * new, slope

    names = ("advantage",) if weighted else ()

    def loss(logp, *weights, **options):
        return sft_loss(logp, weights_T=weights[0] if weights else None, dynamic=dynamic, **options)

    check(loss, b, by_token(b, rule, *names), *names)


WEIGHTS = {"linear": lambda q: 1 - q, "root": lambda q: math.sqrt((1 - q) / q), "one": lambda q: 1.0}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("floor", "failures"), [(1.0, 1.0), (0.5, 0.7)])
def test_nft(weight, floor, failures, b):
    """The floor holds the value of what was made unlikely enough, and never the gradient of its numerator."""
    seen = []

    def rule(new, old, success, q):
        ratio = math.exp(new - old)
        if success:
            return -WEIGHTS[weight](q) * (new - old), -WEIGHTS[weight](q)
        implied = (1 - q * ratio) / (1 - q)
        held = max(implied, floor)
        seen.append(implied < floor)
        scale = -WEIGHTS[weight](q) * failures
        return scale * math.log(held), scale * -q * ratio / (1 - q) / held

    names = ("old_logp_T", "success_T", "rate_T")
    check(nft_loss, b, by_token(b, rule, *names), *names, weight=weight, floor=floor, failures=failures)
    assert set(seen) == {True, False}


@pytest.mark.parametrize(("weight", "scale"), [("linear", "none"), ("root", "group")])
def test_on_policy_nft_has_the_gradient_of_grpo(weight, scale):
    """Proposition 4.2 of the paper: of Dr. GRPO with w = 1 - q, of GRPO with the root."""
    rewards, ids = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]).double(), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    old, sequence = -torch.rand(30, generator=torch.Generator().manual_seed(0)).double(), torch.arange(30) % 7
    rate = torch.tensor([1 / 3, 3 / 4], dtype=torch.float64)[ids][sequence]
    gradients = []
    for nft in (True, False):
        leaf = old.clone().requires_grad_()
        if nft:
            terms = nft_loss(leaf, old, rewards[sequence], rate, weight=weight)
            loss = aggregate_loss(terms, aggregate="constant", normalizer=7.0)
        else:
            advantage = group_advantage(rewards, ids, scale=scale, eps=0.0)[sequence]
            loss, _ = policy_loss(leaf, old, advantage, aggregate="constant", normalizer=7.0)
        loss.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    assert float(gradients[0].abs().max()) > 0.01


def test_a_ratio_of_any_size_is_a_number():
    """A wrong answer grown e^20 times as likely: exp(20) q rounds to 0 beside it in float32, the loss does not."""
    leaf = torch.tensor([-0.1, -0.1], requires_grad=True)
    success, rate = torch.tensor([0, 1]), torch.tensor([0.5, 0.5])
    loss = nft_loss(leaf, torch.tensor([-19.0, -90.0]), success, rate)
    loss.sum().backward()
    assert bool(loss.isfinite().all()) and bool(leaf.grad.isfinite().all())
    assert float(leaf.grad[0]) > 1e7 and float(leaf.grad[1]) == 0.0  # beyond +-20 a ratio passes no gradient


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": "half"}, ValueError, "weight: got 'half'"),
        ({"floor": 0.0}, ValueError, "floor: got 0.0"),
        ({"failures": -1.0}, ValueError, "failures: got -1.0"),
        ({"mask_T": torch.ones(3)}, ValueError, r"mask_T: got shape \[3\]"),
    ],
)
def test_refusals(change, error, message):
    columns = [torch.zeros(4), torch.zeros(4), torch.ones(4)]
    nft_loss(*columns, torch.tensor([0.5, 0.1, 0.9, 1.0]), mask_T=torch.tensor([1, 1, 1, 0]))
    with pytest.raises(error, match=message):
        nft_loss(*columns, torch.full((4,), 0.5), **change)
    with pytest.raises(ValueError, match="rate_T: expected numbers above 0 and below 1"):
        nft_loss(*columns, torch.tensor([0.5, 0.1, 0.9, 1.0]))
    with pytest.raises(ValueError, match=r"success_T: got shape \[3\]"):
        nft_loss(*columns[:2], torch.ones(3), torch.full((4,), 0.5))
