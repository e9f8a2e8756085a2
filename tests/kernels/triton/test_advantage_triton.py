"""group_advantage in Triton against the torch reference, which test_advantage.py compares with exact sums.

Tolerance: both sum in float64 and round once to float32: 1 unit in the last place, and 1e-13 for the order of sums.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast_kernels import group_advantage
from aslfast_kernels.advantages import fused, reference
from tests.support.kernels.kernel_launches import CountedKernel, Operations
from tests.support.kernels.triton_interpreter import DEVICE

ULP32 = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, and several programs where none waits, at sizes the interpreter gets through."""
    for name, size in {"ROWS": 8, "COLS": 8, "BLOCK": 32}.items():
        monkeypatch.setattr(fused, name, size)


def problem(n, dtype, seed=0):
    """Ragged groups in any order, ids negative and beyond 32 bits, one group of equal rewards, and tokens."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(-3, max(n // 4, 1), (n,), generator=g) * 2**33
    rewards = torch.randn(n, generator=g).to(dtype)
    rewards[ids == -(2**33)] = 0.1
    sequences = torch.randint(-1, n, (3 * n + 1,), generator=g)
    return rewards, ids, sequences


def run(rewards, ids, sequences=None, **options):
    arguments = [rewards.to(DEVICE), ids.to(DEVICE)]
    tokens = None if sequences is None else sequences.to(DEVICE)
    return group_advantage(*arguments, sequence_ids_T=tokens, impl="triton", **options).cpu()


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "none"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_like_the_reference(baseline, scale, dtype):
    rewards, ids, sequences = problem(37, dtype)
    options = {"baseline": baseline, "scale": scale, "eps": 1e-3}
    for tokens in (None, sequences):
        got = run(rewards, ids, tokens, **options)
        want = reference.group_advantage(rewards, ids, sequence_ids_T=tokens, **options)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-13 if dtype == torch.float64 else ULP32, atol=1e-13)
        assert float(got.abs().max()) > 0.1


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("baseline", ["mean", "none"])
def test_sample_std_and_kept_singletons(scale, baseline):
    rewards, ids, sequences = problem(37, torch.float64)
    ids[5] = 77  # a group of one
    got = run(rewards, ids, sequences, scale=scale, baseline=baseline, ddof=1, singleton="keep")
    options = {"scale": scale, "baseline": baseline, "sample_std": True, "keep_singletons": True}
    want = reference.group_advantage(rewards, ids, sequence_ids_T=sequences, **options)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
    plain = reference.group_advantage(rewards, ids, scale=scale, baseline=baseline, sequence_ids_T=sequences)
    assert torch.equal(got, plain) == (scale == baseline == "none")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 3), st.integers(-4, 4)), min_size=1, max_size=12))
def test_any_groups(pairs):
    ids, rewards = torch.tensor(pairs).T
    want = reference.group_advantage(rewards / 10, ids)
    torch.testing.assert_close(run(rewards / 10, ids), want, rtol=ULP32, atol=1e-13)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_singletons_and_zero_variance_groups_are_exactly_zero(baseline, scale):
    rewards = torch.tensor([5.0] + [0.1] * 7 + [0.0, 1.0], dtype=torch.float64)
    got = run(rewards, torch.tensor([1] + [2] * 7 + [3, 3]), baseline=baseline, scale=scale, eps=0.0)
    assert got[:8].tolist() == [0.0] * 8
    assert got[8] < 0 < got[9]


def test_low_variance_group_keeps_unit_scale():
    step = 2.0**-10
    got = run(torch.tensor([1000 - step, 1000 + step] * 4), torch.zeros(8, dtype=torch.int32), eps=0.0)
    assert got.tolist() == [-1.0, 1.0] * 4


@pytest.mark.parametrize("n", [0, 1])
def test_smallest(n):
    rewards, ids = torch.full((n,), 3.0), torch.zeros(n, dtype=torch.int64)
    assert run(rewards, ids).tolist() == [0.0] * n
    assert run(rewards, ids, torch.tensor([-1, -1])).tolist() == [0.0, 0.0]
    assert run(rewards, ids, torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_bad_values_are_refused_by_name():
    rewards, ids = torch.arange(9.0), torch.zeros(9, dtype=torch.int64)
    rewards[7] = torch.nan
    with pytest.raises(ValueError, match=r"rewards_N\[7\]: got nan"):
        run(rewards, ids)
    rewards[3] = torch.inf
    with pytest.raises(ValueError, match=r"rewards_N\[3\]: got inf"):
        run(rewards, ids, torch.zeros(2, dtype=torch.int64))
    sequences = torch.zeros(70, dtype=torch.int64)
    sequences[66] = 9
    with pytest.raises(ValueError, match=r"sequence_ids_T\[66\]: got 9, expected -1..8"):
        run(torch.arange(9.0), ids, sequences)


@pytest.mark.parametrize("with_tokens", [False, True])
def test_one_launch(with_tokens, monkeypatch):
    """Apart from the launch torch allocates and does nothing else; the two counters are zeroed once for each stream."""
    rewards, ids, sequences = (x.to(DEVICE) for x in problem(8, torch.float32))
    zeros = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    kernel = CountedKernel(fused.advantage_kernel)
    monkeypatch.setattr(fused, "advantage_kernel", kernel)
    monkeypatch.setattr(fused, "counters", lambda device: zeros)
    with Operations() as operations:
        fused.group_advantage(rewards, ids, sequence_ids_T=sequences if with_tokens else None)
    assert kernel.launches == 1
    assert set(operations.names) == {"empty", "new_empty"} if with_tokens else {"empty"}


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_operator(impl):
    """opcheck, a compiled graph without a break, fake tensors, autocast."""
    rewards, ids, sequences = (x.to(DEVICE) for x in problem(6, torch.float32))
    operator = torch.ops.aslfast_kernels.group_advantage.default
    for tokens in (None, sequences):
        torch.library.opcheck(operator, (rewards, ids, "mean", "group", 1e-6, False, False, tokens, impl))

    def advantage(rewards, ids):
        return group_advantage(rewards, ids, sequence_ids_T=sequences, impl=impl) * 2

    want = advantage(rewards, ids)
    assert torch.equal(torch.compile(advantage, fullgraph=True, backend="aot_eager")(rewards, ids), want)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(advantage(rewards, ids), want)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = operator(
            mode.from_tensor(rewards), mode.from_tensor(ids), "mean", "group", 1e-6, False, False, sequences, impl
        )
    assert (fake.shape, fake.dtype) == (want.shape, want.dtype)
