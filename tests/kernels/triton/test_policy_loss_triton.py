"""policy_loss in Triton against the loop over tokens in Python floats.

Tolerance: twice the error of the torch reference in float32 plus 8 units in the last place of float32: at the size of
the loss's summed |terms|, of the largest gradient, of each metric. A gradient in half precision is rounded to it.
"""

from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl

from aslfast_kernels import policy_loss
from aslfast_kernels.losses import fused, sequence_table
from aslfast_kernels.losses.token_math import k3, ratio_of
from tests.support.kernels.kernel_launches import CountedKernel, Operations
from tests.support.kernels.policy_cases import CASES, batch, call, naive
from tests.support.kernels.triton_interpreter import DEVICE

EPS32 = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, some within one sequence and some not, and several programs where none waits."""
    monkeypatch.setattr(fused, "BLOCK", 16)
    monkeypatch.setattr(sequence_table, "MIN_SLOTS", 64)


def on_device(columns):
    return {name: value.to(DEVICE) for name, value in columns.items()}


def shuffled(columns, seed=3):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    return {name: value[order] for name, value in columns.items()}


def run(columns, case, impl="triton", **more):
    """(loss, gradient, metrics) on the CPU; torch's own on the CPU altogether."""
    columns = on_device(columns) if impl == "triton" else dict(columns)
    columns["logp_T"] = columns["logp_T"].clone().requires_grad_()
    loss, metrics = call(columns, case, impl=impl, **more)
    loss.backward()
    return loss.detach().cpu(), columns["logp_T"].grad.cpu(), [m.cpu() for m in metrics]


def assert_close(got, own, want, size, rounding=0.0):
    got, own, want = (torch.as_tensor(x).double() for x in (got, own, want))
    allowed = 2 * float((own - want).abs().max()) + 8 * EPS32 * size + rounding * want.abs()
    error = (got - want).abs()
    assert bool((error <= allowed).all()), f"error {float(error.max()):.3g}, allowed {float(allowed.max()):.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_the_loop(case, aggregate, dtype):
    columns = batch(dtype) if dtype == torch.float32 else shuffled(batch(dtype))
    options = {"aggregate": aggregate, "normalizer": 17.0}
    loss, gradient, metrics = run(columns, case, **options)
    wide = columns | {k: v.float() for k, v in columns.items() if v.is_floating_point()}
    own_loss, own_gradient, own_metrics = run(wide, case, impl="torch", **options)
    want_loss, want_gradient, size, *want_metrics = naive(columns, **case, **options)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(loss, own_loss, want_loss, size)
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_close(gradient, own_gradient, want_gradient, max(map(abs, want_gradient)), rounding)
    for got, own, want in zip(metrics[:5], own_metrics[:5], want_metrics, strict=True):
        assert_close(got, own, want, abs(want))
    assert int(metrics[5]) == int(own_metrics[5])
    assert 0 < float(metrics[0]) < 1, "a case that clips nothing tests nothing"


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
def test_default_and_tensor_normalizers(aggregate):
    columns = batch(torch.float32)
    kept = columns["mask_T"] & (columns["sequence_ids_T"] >= 0)
    count = int(kept.sum()) if aggregate == "token_mean" else len(columns["sequence_ids_T"][kept].unique())
    results = [
        run(columns, {}, aggregate=aggregate, normalizer=n)[:2]
        for n in (None, count, torch.tensor(count, device=DEVICE), torch.tensor(float(count), device=DEVICE).double())
    ]
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_micro_batches_add_up(case, aggregate):
    """Cut between sequences, one part without a loss token: gradients to the bit, losses to their own rounding."""
    columns = batch(torch.float32)
    options = {"aggregate": aggregate, "normalizer": 9.0}
    loss, gradient, metrics = run(columns, case, **options)
    parts = [
        run({k: v[start:stop] for k, v in columns.items()}, case, **options)
        for start, stop in pairwise([0, 12, 14, 19, 40, 60])
    ]
    assert torch.equal(torch.cat([part[1] for part in parts]), gradient)
    largest = max(abs(float(part[0])) for part in parts)
    assert float(sum(part[0].double() for part in parts)) == pytest.approx(float(loss), abs=4 * EPS32 * largest)
    assert sum(int(part[2][5]) for part in parts) == int(metrics[5])


@pytest.mark.parametrize("case", [CASES["gspo dual kl tis"], CASES["cispo"]])
def test_masked_tokens_are_never_read(case):
    results = []
    for fill in (0.0, torch.nan):
        columns = batch(torch.float32)
        dead = ~columns["mask_T"] | (columns["sequence_ids_T"] < 0)
        columns |= {k: v.masked_fill(dead, fill) for k, v in columns.items() if v.is_floating_point()}
        loss, gradient, metrics = run(columns, case)
        results.append(torch.cat([loss[None], gradient, torch.stack(metrics[:5])]))
    assert torch.equal(*results)


@pytest.mark.parametrize("case", [CASES["gspo dual kl tis"], CASES["cispo"]])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("tokens", [0, 60])
def test_no_loss_token_gives_zero_and_zero_gradient(case, aggregate, tokens):
    columns = {k: v[:tokens] for k, v in batch(torch.float32).items()}
    columns["mask_T"] = torch.zeros_like(columns["mask_T"])
    loss, gradient, metrics = run(columns, case, aggregate=aggregate)
    assert float(loss) == 0.0
    assert gradient.tolist() == [0.0] * tokens
    assert [float(m) for m in metrics] == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("column", ["logp_T", "old_logp_T", "advantage", "ref_logp_T", "sampler_logp_T"])
def test_nan_of_a_loss_token_reaches_the_loss(column):
    columns = batch(torch.float32)
    columns[column][3] = torch.nan
    columns["mask_T"][3] = True
    for case in (CASES["gspo dual kl tis"], CASES["tis"] | {"beta": 0.1, "dual": 2.0}):
        loss, gradient, _ = run(columns, case)
        assert loss.isnan()
        assert gradient[3].isnan() or case.get("level") == "sequence"


def test_sequence_advantage_and_ids_beyond_it():
    columns = batch(torch.float32)
    per_sequence = torch.tensor([1.0, -2.0, 0.5, -0.1, 9.0, 3.0])
    picked = per_sequence[columns["sequence_ids_T"].clamp(min=0)]
    want = run(columns | {"advantage": picked}, CASES["gspo"])
    got = run(columns | {"advantage": per_sequence}, CASES["gspo"])
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert run(columns | {"advantage": per_sequence[:5]}, {})[0].isnan()  # 17 tokens of sequence 5
    columns["sequence_ids_T"][0] = 64
    columns["mask_T"][0] = True
    assert run(columns, CASES["gspo"])[0].isnan()
    assert not run(columns, {})[0].isnan()  # no table, so any id


def test_runaway_ratio_stays_finite():
    for case in ({}, {"level": "sequence"}):
        columns = {
            "logp_T": torch.tensor([0.0]),
            "old_logp_T": torch.tensor([-200.0]),
            "advantage": torch.tensor([-1.0]),
            "sequence_ids_T": torch.tensor([0]),
        }
        loss, gradient, _ = run(columns, case)
        assert float(loss) == pytest.approx(4.8516519540979028e8, rel=1e-6)  # e^20
        assert gradient.tolist() == [0.0]


@triton.jit
def _token_kernel(x_ptr, exp_ptr, k3_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(exp_ptr + at, ratio_of(x), mask=at < n)
    tl.store(k3_ptr + at, k3(x)[0], mask=at < n)


def test_exp_and_k3_keep_their_digits():
    """Both to 4 units in the last place, where float32 exp(x) - 1 - x has no digit left below 1e-4."""
    small = torch.logspace(-6, -0.3, 400)
    x = torch.cat([torch.linspace(-20, 20, 1001), small, -small, torch.tensor([0.0, 0.5, -0.5, 25.0, -25.0])])
    exp, k3_of_x = (torch.empty_like(x, device=DEVICE) for _ in range(2))
    _token_kernel[(1,)](x.to(DEVICE), exp, k3_of_x, len(x), 2048)
    exact = x.double().clamp(-20, 20)
    series = sum(exact**k / torch.tensor(float(k)).double().add(1).lgamma().exp() for k in range(2, 14))
    want = torch.where(exact.abs() < 0.5, series, exact.exp() - 1 - exact)
    torch.testing.assert_close(exp.cpu().double(), exact.exp(), rtol=4 * EPS32, atol=0)
    torch.testing.assert_close(k3_of_x.cpu().double(), want, rtol=4 * EPS32, atol=0)


def test_limits_are_refused(monkeypatch):
    columns = batch(torch.float64)
    with pytest.raises(TypeError, match=r'got torch.float64; pass impl="torch"'):
        run(columns, {})
    monkeypatch.setattr(sequence_table, "MAX_TOKENS", 59)
    with pytest.raises(ValueError, match="logp_T: got 60 tokens, the kernel takes 59"):
        run(batch(torch.float32), {})


@pytest.mark.parametrize("ratio_level", ["token", "sequence"])
def test_one_launch_forward_and_one_backward(ratio_level, monkeypatch):
    """Apart from them torch allocates and takes views, and does nothing else."""
    columns = on_device(batch(torch.float32))
    zeros = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    kernels = []
    for name in ("policy_loss_kernel", "policy_loss_backward_kernel"):
        kernels.append(CountedKernel(getattr(fused, name)))
        monkeypatch.setattr(fused, name, kernels[-1])
    monkeypatch.setattr(fused, "counters", lambda device: zeros)
    with Operations() as operations:
        result = fused.policy_loss(**columns, tis_cap=2.0, ratio_level=ratio_level)
        fused.policy_loss_backward(result.gradient_T, result.normalizer, result.loss, torch.float32)
    assert [kernel.launches for kernel in kernels] == [1, 1]
    assert set(operations.names) <= {"empty", "view", "detach"}


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_operator(impl):
    """opcheck, a compiled graph without a break, autocast; backward included."""
    columns = on_device(batch(torch.float32))
    new, old, advantage, ids, mask = (
        columns[k] for k in ("logp_T", "old_logp_T", "advantage", "sequence_ids_T", "mask_T")
    )
    new.requires_grad_()
    options = (0.1, 0.1, None, None, 0.0, "k3", "sequence", "ppo", None, None, "sequence_mean", None, None, "token")
    options += (impl,)
    torch.library.opcheck(torch.ops.aslfast_kernels.policy_loss.default, (new, old, advantage, ids, mask, *options))

    def step(new):
        loss, metrics = policy_loss(new, old, advantage, sequence_ids_T=ids, mask_T=mask, impl=impl)
        return loss * 3, metrics.clip_fraction

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        for autocast in (False, True):
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
                loss, fraction = function(new)
            (gradient,) = torch.autograd.grad(loss, new)
            results.append(torch.cat([loss.detach()[None], fraction[None], gradient]))
    assert all(torch.equal(result, results[0]) for result in results)
    assert float(results[0].abs().min()) == 0.0 < float(results[0][2:].abs().max())


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter runs programs one after the other")
@pytest.mark.parametrize("case", [CASES["tis"], CASES["gspo dual kl tis"]])
def test_same_bits_every_time(case, monkeypatch):
    """Programs finish in another order each time; and the counters are left as the next launch needs them."""
    monkeypatch.undo()
    g = torch.Generator().manual_seed(0)
    tokens = 100_000
    columns = {name: torch.randn(tokens, generator=g) for name in ("logp_T", "old_logp_T", "advantage")}
    columns |= {name: torch.randn(tokens, generator=g) for name in ("ref_logp_T", "sampler_logp_T")}
    columns["sequence_ids_T"] = torch.randint(-1, 97, (tokens,), generator=g)
    first = run(columns, case)
    for _ in range(20):
        loss, gradient, _ = run(columns, case)
        assert torch.equal(loss, first[0]) and torch.equal(gradient, first[1])
