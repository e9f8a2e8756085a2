"""The objectives beside policy_loss against loops over tokens in Python floats, values and gradients by hand, float64.

Tolerance: 1e-12 relative. Masked tokens hold NaN; none of it may arrive.
"""

import math

import pytest
import torch

from aslfast_kernels import (
    aggregate_loss,
    clip_cov_loss,
    dppo_loss,
    gmpo_loss,
    kl_cov_loss,
    kl_estimate,
    opo_advantage,
    policy_loss,
    sapo_loss,
)
from tests.support.kernels.objective_checks import by_token, check, masked_batch
from tests.support.kernels.policy_cases import KL


@pytest.fixture
def b():
    return masked_batch()


@pytest.mark.parametrize("kind", KL)
def test_kl_estimates(kind, b):
    expected = by_token(b, lambda new, ref: KL[kind](new - ref), "ref_logp_T")
    check(lambda *a, **k: kl_estimate(*a, kind, **k), b, expected, "ref_logp_T")


def test_sapo(b):
    def rule(new, old, a):
        tau, ratio = 0.8 if a > 0 else 2.0, math.exp(new - old)
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        return -a * 4 / tau * gate, -a * 4 * gate * (1 - gate) * ratio

    names = ("old_logp_T", "advantage")
    check(sapo_loss, b, by_token(b, rule, *names), *names, positive=0.8, negative=2.0)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo(divergence, b):
    seen = []

    def rule(new, old, a):
        p, q = math.exp(new), math.exp(old)
        if divergence == "tv":
            valid = p - q <= 0.05 if a > 0 else p - q >= -0.04
        else:
            k = q * (old - new) + (1 - q) * math.log((1 - q + 1e-8) / (1 - p + 1e-8))
            valid = k <= 0.05 or p <= q if a > 0 else k <= 0.04 or p >= q
        seen.append((valid, math.exp(new - old) > 1.4))
        slope = -a * min(math.exp(new - old), 1.4) * valid
        return slope * new, slope

    names = ("old_logp_T", "advantage")
    b["logp_T"] = b["logp_T"].clamp(max=-0.01)
    check(dppo_loss, b, by_token(b, rule, *names), *names, divergence=divergence, low=0.04, high=0.05, ratio_cap=1.4)
    assert {valid for valid, _ in seen} == {True, False} == {capped for _, capped in seen}


def test_gmpo(b):
    """A token whose clip binds has no gradient; every other moves its whole sequence."""
    b["advantage"] = b["advantage"].masked_fill(b["mask_T"], 0.0) + b["sequence_ids_T"].double() - 1.6

    def expected(weights):
        new, old, a = (b[name].tolist() for name in ("logp_T", "old_logp_T", "advantage"))
        ids, mask = b["sequence_ids_T"].tolist(), b["mask_T"].tolist()
        values, gradient, clipped = [0.0] * 60, [0.0] * 60, 0
        for t in [t for t in range(60) if mask[t]]:
            mates = [m for m in range(60) if mask[m] and ids[m] == ids[t]]
            d = {m: new[m] - old[m] for m in mates}
            free = {m: d[m] < 0.2 if a[m] > 0 else d[m] > -0.3 for m in mates}
            c = [d[m] if free[m] else 0.2 if a[m] > 0 else -0.3 for m in mates]
            values[t] = -sum(a[m] for m in mates) / len(mates) * math.exp(sum(c) / len(mates))
            for m in mates:
                gradient[m] += weights[t] * values[t] * free[m] / len(mates)
            clipped += len(mates) - sum(free.values())
        assert clipped > 10
        return values, gradient

    check(gmpo_loss, b, expected, "old_logp_T", "advantage", "sequence_ids_T", clip_low=0.3, clip_high=0.2)


def covariances(b):
    kept = [t for t, m in enumerate(b["mask_T"].tolist()) if m]
    new, a = b["logp_T"].tolist(), b["advantage"].tolist()
    mean_new, mean_a = (math.fsum(x[t] for t in kept) / len(kept) for x in (new, a))
    return {t: (a[t] - mean_a) * (new[t] - mean_new) for t in kept}


def test_kl_cov(b):
    found = covariances(b)
    highest = sorted(found, key=lambda t: -found[t])[: int(0.2 * len(found))]

    def expected(weights):
        new, old, a = (b[name].tolist() for name in ("logp_T", "old_logp_T", "advantage"))
        values, gradient = [0.0] * 60, [0.0] * 60
        for t in found:
            d, penalty = new[t] - old[t], 0.7 * (t in highest)
            values[t] = -a[t] * math.exp(d) + penalty * abs(d)
            gradient[t] = weights[t] * (-a[t] * math.exp(d) + math.copysign(penalty, d))
        return values, gradient

    assert len(highest) > 3
    check(kl_cov_loss, b, expected, "old_logp_T", "advantage", share=0.2, coefficient=0.7)


def test_clip_cov(b):
    """PPO's loss, but 0 without a gradient for a third of the tokens, all unclipped and within the bounds."""
    found, options = covariances(b), {"clip_low": 0.2, "clip_high": 0.28}
    arguments = [b[name] for name in ("old_logp_T", "advantage")]
    losses = []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        leaf = b["logp_T"].clone().requires_grad_()
        loss = clip_cov_loss(
            leaf, *arguments, share=0.15, bounds=(-0.1, 0.5), mask_T=b["mask_T"], generator=generator, **options
        )
        loss.sum().backward()
        losses.append((loss.detach(), leaf.grad))
    assert torch.equal(losses[0][0], losses[1][0]) and not torch.equal(losses[0][0], losses[2][0])
    leaf = b["logp_T"].clone().requires_grad_()
    none = clip_cov_loss(leaf, *arguments, bounds=(7.0, 8.0), mask_T=b["mask_T"], **options)
    none.sum().backward()
    ppo = b["logp_T"].clone().requires_grad_()
    total = policy_loss(ppo, *arguments, mask_T=b["mask_T"], normalizer=1.0, **options)[0]
    total.backward()
    torch.testing.assert_close(none.sum(), total, rtol=1e-12, atol=0)
    torch.testing.assert_close(leaf.grad, ppo.grad, rtol=1e-12, atol=1e-14)
    left_out = [t for t in found if float(losses[0][0][t]) == 0.0]
    assert len(left_out) == int(0.15 * len(found)) > 3
    assert all(-0.1 < found[t] < 0.5 and float(ppo.grad[t]) != 0.0 == float(losses[0][1][t]) for t in left_out)
    rest = [t for t in found if t not in left_out]
    torch.testing.assert_close(losses[0][1][rest], ppo.grad[rest], rtol=1e-12, atol=0)


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("normalizer", [None, 17.0])
def test_aggregate_loss_is_policy_losss(aggregate, normalizer, b):
    if aggregate == "constant" and normalizer is None:
        with pytest.raises(ValueError, match="normalizer: got None"):
            aggregate_loss(b["logp_T"], aggregate=aggregate)
        return
    options = {"aggregate": aggregate, "normalizer": normalizer, "sequence_ids_T": b["sequence_ids_T"]}
    columns = [b[name] for name in ("logp_T", "old_logp_T", "advantage")]
    want = policy_loss(*columns, mask_T=b["mask_T"], clip_low=math.inf, clip_high=math.inf, **options)[0]
    ratio = (columns[0] - columns[1]).exp()
    got = aggregate_loss(-ratio * columns[2], mask_T=b["mask_T"].float(), **options)
    assert float(got) == pytest.approx(float(want), rel=1e-12)
    leaf = torch.zeros(60, dtype=torch.float64, requires_grad=True)
    empty = aggregate_loss(leaf, mask_T=b["mask_T"] & False, **options)
    empty.backward()
    assert float(empty) == 0.0 == float(leaf.grad.abs().max())


@pytest.mark.parametrize("singleton", ["zero", "keep"])
def test_opo(singleton):
    rewards, ids, lengths = [1.0, 0.0, 0.5, 2.0, 3.0, 4.0], [5, 5, 5, -1, 8, 8], [10, 30, 5, 7, 0, 0]
    got = opo_advantage(torch.tensor(rewards), torch.tensor(ids), torch.tensor(lengths), singleton=singleton)
    mean = (1.0 * 10 + 0.5 * 5) / 45
    alone = 2.0 if singleton == "keep" else 0.0
    assert got.tolist() == pytest.approx([1 - mean, -mean, 0.5 - mean, alone, 3.0, 4.0], rel=1e-6)


@pytest.mark.parametrize(
    ("function", "change", "error", "message"),
    [
        (sapo_loss, {"negative": 0.0}, ValueError, "negative: got 0.0"),
        (dppo_loss, {"divergence": "js"}, ValueError, "divergence: got 'js'"),
        (dppo_loss, {"low": -1.0}, ValueError, "low: got -1.0"),
        (clip_cov_loss, {"share": 0.0}, ValueError, "share: got 0.0"),
        (kl_cov_loss, {"coefficient": math.inf}, ValueError, "coefficient: got inf"),
        (kl_cov_loss, {"mask_T": torch.ones(3)}, ValueError, r"mask_T: got shape \[3\]"),
    ],
)
def test_refusals(function, change, error, message):
    columns = [torch.zeros(4) for _ in range(3)]
    function(*columns)
    with pytest.raises(error, match=message):
        function(*columns, **change)
    with pytest.raises(ValueError, match=r"advantage_T: got shape \[3\]"):
        function(*columns[:2], torch.zeros(3))
