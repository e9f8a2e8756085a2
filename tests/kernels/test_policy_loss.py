"""policy_loss against a loop over tokens in Python floats, with the gradient written out by hand.

Tolerance: float64 inputs 1e-13 relative; float32 arithmetic on T = 60 tokens 1e-5 relative to the largest value (60
roundings of 6e-8, and exp of a log-ratio of at most 2); the loop itself is exact to 1e-15.
"""

import math
from itertools import pairwise

import pytest
import torch

from aslfast_kernels import group_advantage, policy_loss
from tests.support.kernels.policy_cases import CASES, SEQUENCES, batch, call, naive


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_the_loop(case, aggregate, dtype):
    b = batch(dtype)
    b["logp_T"].requires_grad_()
    loss, metrics = call(b, case, aggregate=aggregate, normalizer=17.0)
    loss.backward()
    want_loss, want_gradient, _, *want_metrics = naive(b, **case, aggregate=aggregate, normalizer=17.0)
    exact = dtype == torch.float64
    rtol = 1e-13 if exact else 1e-5
    assert loss.dtype == (torch.float64 if exact else torch.float32)
    assert loss.item() == pytest.approx(want_loss, rel=rtol, abs=rtol)
    gradient = torch.tensor(want_gradient, dtype=torch.float64)
    # in half precision the gradient itself is rounded to that dtype
    rounding = 0.0 if exact or dtype == torch.float32 else torch.finfo(dtype).eps
    got_gradient = b["logp_T"].grad.double()
    torch.testing.assert_close(got_gradient, gradient, rtol=rounding, atol=rtol * float(gradient.abs().max()))
    assert [float(m) for m in metrics[:5]] == pytest.approx(want_metrics, rel=rtol, abs=rtol)
    assert 0 < float(metrics.clip_fraction) < 1, "a case that clips nothing tests nothing"


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
def test_default_normalizer_counts_loss_tokens_or_sequences(aggregate):
    b = batch()
    kept = [s for s, m in zip(SEQUENCES, b["mask_T"].tolist(), strict=True) if m and s >= 0]
    count = len(kept) if aggregate == "token_mean" else len(set(kept))
    default, metrics = call(b, {}, aggregate=aggregate)
    passed, _ = call(b, {}, aggregate=aggregate, normalizer=count)
    assert float(default) == float(passed)
    assert int(metrics.tokens) == len(kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_micro_batches_add_up(case, aggregate, dtype):
    """Cut between sequences into uneven parts, one of them without a loss token."""
    b = batch(dtype)
    b["mask_T"][17:19] = True
    cuts = [0, 12, 14, 19, 40, 60]
    full = b | {"logp_T": b["logp_T"].clone().requires_grad_()}
    loss, metrics = call(full, case, aggregate=aggregate, normalizer=9.0)
    loss.backward()
    parts = b | {"logp_T": b["logp_T"].clone().requires_grad_()}
    total, clipped = 0.0, 0.0
    for start, stop in pairwise(cuts):
        part_loss, part = call({k: v[start:stop] for k, v in parts.items()}, case, aggregate=aggregate, normalizer=9.0)
        part_loss.backward()
        total += part_loss.item()
        clipped += float(part.clip_fraction * part.tokens)
    rounding = 16 * torch.finfo(dtype).eps  # sums in another order
    assert total == pytest.approx(loss.item(), rel=rounding, abs=rounding)
    torch.testing.assert_close(parts["logp_T"].grad, full["logp_T"].grad, rtol=rounding, atol=0)
    assert clipped == pytest.approx(float(metrics.clip_fraction * metrics.tokens), abs=1e-4)


def test_float32_loss_whatever_the_normalizer():
    """A float64 count from an all-reduce neither widens the loss nor changes it."""
    b = batch(torch.float32)
    for normalizer in (torch.tensor(8.0, dtype=torch.float64), torch.tensor(8)):
        loss, _ = call(b, {}, normalizer=normalizer)
        assert loss.dtype == torch.float32
        assert float(loss) == float(call(b, {}, normalizer=8.0)[0])


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("case", [CASES["gspo dual kl tis"], CASES["cispo"]])
@pytest.mark.parametrize("empty", ["mask", "padding", "no tokens"])
def test_no_loss_token_gives_zero_and_zero_gradient(case, aggregate, empty):
    b = batch(torch.float32)
    if empty == "mask":
        b["mask_T"] = torch.zeros_like(b["mask_T"])
    elif empty == "padding":
        b["sequence_ids_T"] = torch.full_like(b["sequence_ids_T"], -1)
    else:
        b = {k: v[:0] for k, v in b.items()}
    b["logp_T"].requires_grad_()
    loss, metrics = call(b, case, aggregate=aggregate, normalizer=3.0 if aggregate == "constant" else None)
    loss.backward()
    assert loss.item() == 0.0
    assert b["logp_T"].grad.tolist() == [0.0] * len(b["logp_T"])
    assert [float(m) for m in metrics] == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_masked_tokens_are_never_read(case):
    """NaN in every column of masked and padding tokens changes nothing."""
    results = []
    for fill in (0.0, torch.nan):
        b = batch()
        dead = ~b["mask_T"] | (b["sequence_ids_T"] < 0)
        floats = {k: v.masked_fill(dead, fill) for k, v in b.items() if v.is_floating_point()}
        b |= floats
        b["logp_T"].requires_grad_()
        loss, metrics = call(b, case)
        loss.backward()
        results.append(torch.cat([loss.detach()[None], b["logp_T"].grad, torch.stack(metrics[:5])]))
    assert torch.equal(*results)
    assert float(results[0][1:61].abs().max()) > 0


def test_sequence_advantage_is_picked_by_sequence_id():
    b = batch()
    per_sequence = torch.tensor([1.0, -2.0, 0.5, -0.1, 9.0, 3.0], dtype=torch.float64)
    per_token = torch.where(b["sequence_ids_T"] >= 0, per_sequence[b["sequence_ids_T"].clamp(min=0)], torch.nan)
    want, _ = call(b | {"advantage": per_token}, {})
    assert float(call(b | {"advantage": per_sequence}, {})[0]) == float(want)


def test_as_many_sequences_as_tokens_needs_the_level_named():
    """Two tokens of sequence 1 and two sequences: [10, 1] means both, by what the caller says."""
    b = {"logp_T": torch.zeros(2), "old_logp_T": torch.zeros(2), "sequence_ids_T": torch.tensor([1, 1])}
    b["advantage"] = torch.tensor([10.0, 1.0])
    assert float(policy_loss(**b)[0]) == -5.5
    assert float(policy_loss(**b, advantage_level="token")[0]) == -5.5
    assert float(policy_loss(**b, advantage_level="sequence")[0]) == -1.0


def test_on_policy_gradient_is_minus_the_advantage():
    """At ratio 1 PPO, GSPO on sequence means and CISPO are all REINFORCE, with group advantages from the kernel."""
    ids = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    advantage = group_advantage(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([5, 5, 9, 9]), eps=0.0)
    size = torch.tensor([3, 2, 1, 2])
    want = -(advantage / size)[ids] / 4
    for extra in ({}, {"ratio_level": "sequence"}, {"kind": "cispo"}):
        leaf = torch.full((8,), -0.7, requires_grad=True)
        loss, metrics = policy_loss(leaf, leaf, advantage, sequence_ids_T=ids, aggregate="sequence_mean", **extra)
        loss.backward()
        torch.testing.assert_close(leaf.grad, want, rtol=2e-7, atol=0)
        assert [float(m) for m in metrics[:4]] == [0.0, 0.0, 1.0, 1.0]


def test_runaway_ratio_stays_finite():
    """A log-ratio of 200 with advantage 0 would be inf * 0; with -1 the loss is e^20, and no gradient."""
    for advantage, want in ((0.0, 0.0), (-1.0, math.exp(20))):
        leaf = torch.tensor([0.0], requires_grad=True)
        loss, _ = policy_loss(leaf, torch.tensor([-200.0]), torch.tensor([advantage]))
        loss.backward()
        assert loss.item() == pytest.approx(want, rel=1e-6)
        assert leaf.grad.tolist() == [0.0]


def test_metrics_and_other_inputs_carry_no_gradient():
    b = batch()
    for name in ("logp_T", "old_logp_T", "ref_logp_T", "sampler_logp_T", "advantage"):
        b[name].requires_grad_()
    loss, metrics = call(b, CASES["gspo dual kl tis"])
    assert not any(m.requires_grad for m in metrics)
    loss.backward()
    assert b["logp_T"].grad is not None
    assert all(b[n].grad is None for n in ("old_logp_T", "ref_logp_T", "sampler_logp_T", "advantage"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"old_logp_T": torch.zeros(3)}, ValueError, r"old_logp_T: got shape \[3\], expected \[4\]"),
        ({"mask_T": torch.ones(4).cfloat()}, TypeError, "mask_T: got torch.complex64, expected a number"),
        ({"mask_T": torch.ones(3)}, ValueError, r"mask_T: got shape \[3\], expected \[4\]"),
        ({"clip_high": math.nan}, ValueError, "clip_high: got nan"),
        ({"advantage": torch.zeros(3)}, ValueError, r"advantage: got shape \[3\], expected \[4\]"),
        (
            {"advantage": torch.zeros(2), "sequence_ids_T": torch.tensor([0, 1, 2, -1])},
            ValueError,
            r"sequence_ids_T\[2\]: got 2, expected -1..1",
        ),
        ({"aggregate": "sequence_mean"}, ValueError, "sequence_ids_T: got None"),
        ({"ratio_level": "sequence"}, ValueError, "sequence_ids_T: got None"),
        ({"aggregate": "constant"}, ValueError, "normalizer: got None"),
        ({"aggregate": "mean"}, ValueError, "aggregate: got 'mean'"),
        ({"normalizer": 0}, ValueError, "normalizer: got 0"),
        ({"normalizer": torch.ones(2)}, ValueError, r"normalizer: got shape \[2\]"),
        ({"kl_coef": 0.1}, ValueError, "ref_logp_T: got None"),
        ({"kl_kind": "k4"}, ValueError, "kl_kind: got 'k4'"),
        ({"tis_cap": 2.0}, ValueError, "sampler_logp_T and tis_cap"),
        ({"sampler_logp_T": torch.zeros(4)}, ValueError, "sampler_logp_T and tis_cap"),
        ({"dual_clip": 1.0}, ValueError, "dual_clip: got 1.0"),
        ({"dual_clip": 3.0, "kind": "cispo"}, ValueError, "no dual clip"),
        ({"clip_low": -0.1}, ValueError, "clip_low: got -0.1"),
        ({"kind": "reinforce"}, ValueError, "kind: got 'reinforce'"),
        ({"impl": "triton"}, ValueError, 'pass impl="torch"'),
    ],
)
def test_refusals(change, error, message):
    arguments = {"logp_T": torch.zeros(4), "old_logp_T": torch.zeros(4), "advantage": torch.zeros(4)}
    policy_loss(**arguments)
    with pytest.raises(error, match=message):
        policy_loss(**(arguments | change))
