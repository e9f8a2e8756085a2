"""importance_weights against loops over tokens in Python floats, and `policy_loss` with weights. float64: 1e-13."""

import math

import pytest
import torch

from aslfast_kernels import importance_weights, policy_loss
from tests.support.kernels.policy_cases import CASES, batch, call


def naive(b, low, high, mode, level):
    old, sampler, ids = (b[name].tolist() for name in ("old_logp_T", "sampler_logp_T", "sequence_ids_T"))
    kept = [t for t, m in enumerate(b["mask_T"].tolist()) if m and ids[t] >= 0]
    d = {t: 0.0 if math.isnan(sampler[t]) else old[t] - sampler[t] for t in kept}
    out = [0.0] * len(old)
    for t in kept:
        mates = [m for m in kept if ids[m] == ids[t]] if level != "token" else [t]
        total = math.fsum(d[m] for m in mates)
        weight = math.exp(total / len(mates) if level == "geometric" else total)
        inside = low <= weight <= high
        out[t] = weight if inside else 0.0 if mode == "mask" else min(max(weight, low), high)
    return out


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize(("low", "high"), [(0.8, 1.1), (0.0, math.inf), (0.9, math.inf)])
def test_against_the_loop(level, mode, low, high):
    """NaN of a masked token changes nothing; of a loss token it is a weight of 1, as in TRL."""
    b = batch()
    b["sampler_logp_T"][~b["mask_T"]] = math.nan
    b["sampler_logp_T"][30] = math.nan
    b["mask_T"][30] = True
    got = importance_weights(
        b["old_logp_T"].requires_grad_(), b["sampler_logp_T"], low=low, high=high, mode=mode, level=level,
        sequence_ids_T=b["sequence_ids_T"], mask_T=b["mask_T"].long(),
    )  # fmt: skip
    assert not got.requires_grad
    assert got.tolist() == pytest.approx(naive(b, low, high, mode, level), rel=1e-13)
    if level == "token":
        assert float(got[30]) == 1.0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_multiply_all_but_the_kl_term(case, level):
    """With weights of the truncated kind the loss is the one by `tis_cap`, and linear in them; gradients too."""
    b, sequences = batch(), torch.tensor([1.0, -2.0, 0.5, -0.1, 9.0, 3.0], dtype=torch.float64)
    cap = case.get("cap", 1.1)
    weights = importance_weights(b["old_logp_T"], b["sampler_logp_T"], high=cap)
    b |= {"advantage": sequences} if level == "sequence" else {}
    plain = {name: value for name, value in case.items() if name != "cap"}
    results = []
    for options, more in ((plain | {"cap": cap}, {}), (plain, {"weights_T": weights})):
        leaf = b["logp_T"].clone().requires_grad_()
        loss, metrics = call(b | {"logp_T": leaf}, options, advantage_level=level, **more)
        loss.backward()
        results.append(torch.cat([loss.detach()[None], leaf.grad, torch.stack(metrics[:5])]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)
    assert float(results[0].abs().max()) > 0.01


def test_a_weight_of_zero_takes_a_token_out_of_the_sum_but_not_of_the_mean():
    b = batch()
    weights = (torch.arange(60) % 2).double()
    halved = call(b, {}, weights_T=weights, normalizer=7.0)[0]
    kept = call(b | {"mask_T": b["mask_T"] & (weights > 0)}, {}, normalizer=7.0)[0]
    assert float(halved) == pytest.approx(float(kept), rel=1e-13)
    tokens = call(b, {}, weights_T=weights)[1].tokens
    assert int(tokens) == int((b["mask_T"] & (b["sequence_ids_T"] >= 0)).sum())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "clip"}, ValueError, "mode: got 'clip'"),
        ({"level": "sequence"}, ValueError, "sequence_ids_T: got None"),
        ({"low": -1.0}, ValueError, "low: got -1.0"),
        ({"high": math.nan}, ValueError, "high: got nan"),
        ({"mask_T": torch.ones(3)}, ValueError, r"mask_T: got shape \[3\]"),
    ],
)
def test_refusals(change, error, message):
    importance_weights(torch.zeros(4), torch.zeros(4))
    with pytest.raises(error, match=message):
        importance_weights(torch.zeros(4), torch.zeros(4), **change)
    with pytest.raises(ValueError, match=r"weights_T: got shape \[3\]"):
        policy_loss(*(torch.zeros(4) for _ in range(3)), weights_T=torch.zeros(3))
