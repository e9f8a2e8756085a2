"""Every card's way to read the tiles gives the same numbers; rows of any length reach the kernel in whole pieces."""

import dataclasses

import pytest
import torch

from aslfast_kernels import cards, linear_logprob
from aslfast_kernels.logprobs import head_kernels
from tests.support.kernels.exact_logprob import problem
from tests.support.kernels.triton_interpreter import DEVICE, INTERPRETED

WAYS = {"pointers": {"tma": False}, "no TMA for a residual with a softcap": {"tma_bends": False}}
interpreted = pytest.mark.skipif(not INTERPRETED, reason="plays another card: only Triton's interpreter does")


class SeenKernel:
    """Launches the head's kernel and keeps what each launch was given."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, []

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.launches.append((args, options))
            return self.kernel[grid](*args, **options)

        return launch


@pytest.fixture
def seen(monkeypatch):
    kernel = SeenKernel(head_kernels.head_kernel)
    monkeypatch.setattr(head_kernels, "head_kernel", kernel)
    return kernel


def run(shape, dtype, trained):
    """Return the values and the gradients; trained: how many of hidden, weight and bias."""
    *inputs, target, upstream = problem(shape, dtype)
    leaves = [x.detach().clone().to(DEVICE).requires_grad_(i < trained) for i, x in enumerate(inputs)]
    options = {"bias": leaves[2], "softcap": 5.0, "return_entropy": trained == 3, "impl": "triton"}
    out = linear_logprob(leaves[0], leaves[1], target.to(DEVICE), **options)
    values = out if trained == 3 else [out]
    sum((v * u.to(DEVICE)).sum() for v, u in zip(values, upstream, strict=False)).backward()
    return [*(v.detach() for v in values), *(x.grad for x in leaves[:trained])]


@interpreted
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trained", [1, 3])
@pytest.mark.parametrize("width", [32, 33])
def test_every_way_to_read_gives_the_same_numbers(way, trained, width, seen, monkeypatch):
    shape = (40, width, 1100)
    by_tma = run(shape, torch.bfloat16, trained)
    assert all(options["TMA"] for _, options in seen.launches)
    seen.launches.clear()
    monkeypatch.setattr(cards, "INTERPRETED", dataclasses.replace(cards.INTERPRETED, **WAYS[way]))
    others = run(shape, torch.bfloat16, trained)
    assert [options["TMA"] for _, options in seen.launches] == [way != "pointers" and trained == 3] * len(seen.launches)
    assert all(torch.equal(a, b) for a, b in zip(by_tma, others, strict=True))


@interpreted
@pytest.mark.parametrize("capability", sorted(cards.CARDS))
def test_the_shipped_tiles_of_every_card(capability, monkeypatch):
    """Part of a token tile, and a vocabulary tile and a bit: other orders of the same float32 sums."""
    expected = run((7, 33, 300), torch.float32, 3)
    monkeypatch.setattr(cards, "INTERPRETED", cards.CARDS[capability])
    for want, got in zip(expected, run((7, 33, 300), torch.float32, 3), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize(("width", "offset"), [(33, 0), (40, 0), (48, 0), (48, 1), (48, 8)])
def test_16_bit_rows_reach_the_kernel_in_whole_pieces(width, offset, seen, monkeypatch):
    """Sizes, strides and addresses that Triton knows to be divisible by 16, also of matrices cut out of wider ones."""
    monkeypatch.setattr(cards, "INTERPRETED", dataclasses.replace(cards.INTERPRETED, tma=False))
    g = torch.Generator().manual_seed(0)
    wide = [torch.randn(n, width + 16, generator=g).bfloat16() for n in (40, 300)]
    hidden, weight = (x[:, offset : offset + width] for x in wide)
    hidden.requires_grad_()
    target = torch.randint(300, (40,), generator=g)
    linear_logprob(hidden, weight, target, impl="triton").sum().backward()
    dense = [x.detach().contiguous().requires_grad_(x.requires_grad) for x in (hidden, weight)]
    linear_logprob(*dense, target, impl="triton").sum().backward()
    assert torch.equal(hidden.grad, dense[0].grad)
    for args, _ in seen.launches:
        of_hidden, of_weight, sizes = args[0], args[1], args[10:14]
        assert of_hidden.data_ptr() % 16 == of_weight.data_ptr() % 16 == 0
        assert [size % 16 for size in sizes] == [0, 0, 0, 0]
    taken = seen.launches[0][0][1].data_ptr() == weight.data_ptr()
    assert taken == (width == 48 and offset != 1), "a head of whole pieces is not copied; others are"
