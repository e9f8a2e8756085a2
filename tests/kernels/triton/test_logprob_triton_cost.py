"""What the Triton log-probs cost: launches and products counted, and no [T, V] anywhere."""

import pytest
import torch
from torch.utils.flop_counter import mm_flop

from aslfast_kernels import linear_logprob
from aslfast_kernels.logprobs import head, head_kernels
from tests.support.kernels.triton_interpreter import DEVICE
from tests.support.matrix_products import count_products, head_problem


class CountedHead:
    """Launches the head's kernel and adds up the products that it is asked for."""

    def __init__(self, kernel):
        self.kernel, self.flops = kernel, 0

    def __getitem__(self, grid):
        def launch(*args, **options):
            tokens, vocabulary, width = args[8:11]
            self.flops += mm_flop((tokens, width), (width, vocabulary))
            return self.kernel[grid](*args, **options)

        return launch


@pytest.mark.parametrize(
    ("kept", "residual", "trainable", "products"),
    [(32, "auto", False, 2), (12, "save", False, 2), (12, "recompute", False, 3), (12, "auto", True, 4)],
)
def test_number_of_matrix_products(kept, residual, trainable, products, monkeypatch):
    """Launches of the head's kernel and plain products together, in units of one product of the loss tokens."""
    counter, counted = count_products(monkeypatch), CountedHead(head_kernels.head_kernel)
    monkeypatch.setattr(head_kernels, "head_kernel", counted)
    monkeypatch.setattr(head, "WORKSPACE_BYTES", 12 * 512 * 4)
    hidden, weight, target = (x.to(DEVICE) for x in head_problem(32, 16, 500))
    hidden.requires_grad_()
    weight.requires_grad_(trainable)
    mask = torch.arange(32, device=DEVICE) < kept
    linear_logprob(hidden, weight, target, mask=mask, residual=residual, impl="triton").sum().backward()
    assert (counted.flops + counter.flops) == products * 2 * kept * 16 * 500


@pytest.mark.parametrize(("trained", "products"), [(False, 2), (True, 4)])
def test_a_logged_entropy_costs_no_product(trained, products, monkeypatch):
    """With a saved residual: 2 for forward and backward; a gradient through the entropy takes 2 more."""
    counter, counted = count_products(monkeypatch), CountedHead(head_kernels.head_kernel)
    monkeypatch.setattr(head_kernels, "head_kernel", counted)
    hidden, weight, target = (x.to(DEVICE) for x in head_problem(32, 16, 500))
    hidden.requires_grad_()
    logp, entropy = linear_logprob(hidden, weight, target, residual="save", return_entropy=True, impl="triton")
    (logp.sum() + entropy.sum() if trained else logp.sum()).backward()
    assert (counted.flops + counter.flops) == products * 2 * 32 * 16 * 500


@pytest.mark.parametrize("entropy", [False, True])
def test_all_logits_never_exist_at_once(entropy, monkeypatch):
    """The largest tensor that is made is the workspace of 8 of 30 rows, each padded to 128 bytes."""
    counter = count_products(monkeypatch)
    monkeypatch.setattr(head, "WORKSPACE_BYTES", 8 * 1024 * 4)
    monkeypatch.setattr(head, "STATISTICS_BYTES", 8 * 1024 * 4)
    hidden, weight, target = (x.to(DEVICE) for x in head_problem(30, 4, 1000))
    hidden.requires_grad_()
    result = linear_logprob(hidden, weight, target, return_entropy=entropy, impl="triton")
    (sum(v.sum() for v in result) if entropy else result.sum()).backward()
    assert counter.bytes <= 8 * 1024 * 4


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("residual", ["save", "recompute"])
def test_peak_memory_on_the_device(residual):
    """Beyond what was there: the workspace, the residual and the gradient, statistics, a float32 chunk of hidden."""
    tokens, width, vocabulary = 8192, 1024, 152064
    hidden = torch.randn(tokens, width, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(vocabulary, width, device=DEVICE, dtype=torch.bfloat16) * width**-0.5
    target = torch.randint(vocabulary, (tokens,), device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_logprob(hidden, weight, target, residual=residual).sum().backward()
    spent = torch.cuda.max_memory_allocated() - before
    allowed = head.WORKSPACE_BYTES + head.STATISTICS_BYTES + 8 * tokens * width * 2 + (64 << 20)
    assert spent < allowed < tokens * vocabulary * 2
