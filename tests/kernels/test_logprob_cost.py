"""What log-probs cost and refuse: matrix products, the largest tensor, one backward, bad arguments."""

import pytest
import torch

from aslfast_kernels import linear_logprob, logprob
from aslfast_kernels.logprobs import reference
from tests.support.matrix_products import count_products, head_problem


@pytest.mark.parametrize(
    ("kept", "residual", "trainable", "products"),
    [(32, "auto", False, 2), (12, "save", False, 2), (12, "recompute", False, 3), (12, "auto", True, 4)],
)
def test_number_of_matrix_products(kept, residual, trainable, products, monkeypatch):
    """In units of one product of the loss tokens: 2 with the saved residual, 3 recomputed, 4 with a trainable head."""
    counter = count_products(monkeypatch)
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 5 * 500)
    hidden, weight, target = head_problem(32, 16, 500)
    hidden.requires_grad_()
    weight.requires_grad_(trainable)
    linear_logprob(hidden, weight, target, mask=torch.arange(32) < kept, residual=residual).sum().backward()
    assert counter.flops == products * 2 * kept * 16 * 500


@pytest.mark.parametrize("entropy", [False, True])
def test_all_logits_never_exist_at_once(entropy, monkeypatch):
    counter = count_products(monkeypatch)
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 8 * 1000)
    hidden, weight, target = head_problem(100, 4, 1000)
    hidden.requires_grad_()
    result = linear_logprob(hidden, weight, target, return_entropy=entropy)
    (sum(v.sum() for v in result) if entropy else result.sum()).backward()
    assert counter.bytes == 8 * 1000 * 4


def test_inplace_backward_writes_over_the_logits_and_refuses_a_second():
    hidden, weight, target = head_problem(6, 5, 40)
    logits = hidden.requires_grad_() @ weight.T
    logits.retain_grad()
    loss = logprob(logits, target, inplace_backward=True).sum()
    loss.backward(retain_graph=True)
    assert torch.equal(logits.detach(), logits.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_double_backward_is_refused():
    hidden, weight, target = head_problem(6, 5, 40)
    hidden.requires_grad_()
    (grad,) = torch.autograd.grad(linear_logprob(hidden, weight, target).square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"impl": "triton"}, ValueError, 'needs CUDA tensors, got cpu; pass impl="torch"'),
        ({"impl": "cuda"}, ValueError, "impl: got 'cuda'"),
        ({"tp_group": object()}, TypeError, "tp_group: got object, expected a torch.distributed.ProcessGroup"),
        ({"weight_VD": torch.zeros(9, 3)}, ValueError, r"weight_VD: got shape \[9, 3\], expected \[any, 4\]"),
        ({"bias": torch.zeros(8)}, ValueError, r"bias: got shape \[8\], expected \[9\]"),
        ({"target_T": torch.tensor([0, 9])}, ValueError, r"target_T\[1\]: got 9, expected 0..8"),
        ({"target_T": torch.tensor([-100, 1])}, ValueError, r"target_T\[0\]: got -100.*mask out"),
        ({"target_T": torch.zeros(2)}, TypeError, "target_T: got torch.float32"),
        ({"mask": torch.ones(2).cfloat()}, TypeError, "mask: got torch.complex64, expected a number"),
        ({"temperature": 0.0}, ValueError, "temperature: got 0.0"),
        ({"softcap": -1.0}, ValueError, "softcap: got -1.0"),
        ({"residual": "keep"}, ValueError, "residual: got 'keep'"),
        ({"logit_scale": -2.0}, ValueError, "logit_scale: got -2.0"),
        ({"residual": "save", "weight_VD": torch.zeros(9, 4, requires_grad=True)}, ValueError, "frozen head"),
    ],
)
def test_refusals(change, error, message):
    arguments = {"hidden_TD": torch.zeros(2, 4), "weight_VD": torch.zeros(9, 4), "target_T": torch.tensor([0, 8])}
    linear_logprob(**arguments)
    with pytest.raises(error, match=message):
        linear_logprob(**(arguments | change))
