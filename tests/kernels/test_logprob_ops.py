"""The torch.library operators under log-probs: opcheck, torch.compile, fake tensors, autocast.

test_triton_kernels.py runs this file with impl = "triton" too.
"""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from aslfast_kernels import linear_logprob, logprob
from aslfast_kernels.logprobs import linear_operator, logits_operator


@pytest.fixture
def problem(device):
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=g) for shape in ((6, 16), (70, 16), (70,)))
    target = torch.randint(70, (6,), generator=g)
    mask = torch.tensor([True, True, False, True, True, True])
    return tuple(x.to(device) for x in (hidden, weight, bias, target, mask))


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("trainable", [False, True])
def test_opcheck_linear(trainable, problem, impl):
    hidden, weight, bias, target, mask = problem
    leaves = [hidden.requires_grad_(), weight.requires_grad_(trainable), bias.requires_grad_(trainable)]
    options = (0.7, 3.0 if trainable else None, trainable, not trainable, None, None, impl)
    torch.library.opcheck(linear_operator.linear_op, (*leaves, target, mask, *options), test_utils=CHECKS)


def test_opcheck_of_the_backwards(problem, impl):
    """They have no gradient of their own, and so no autograd formula to check."""
    hidden, weight, bias, target, mask = problem
    rows, checks = [torch.rand_like(hidden[:, 0]) for _ in range(4)], ("test_schema", "test_faketensor")
    inputs = (hidden, weight, bias, target, mask, *rows, 0.7, None, True, False, True, torch.bfloat16, None, impl)
    torch.library.opcheck(linear_operator.linear_backward_op, inputs, test_utils=checks)
    torch.library.opcheck(linear_operator.scale_residual_op, (hidden, rows[0]), test_utils=checks)
    logits = hidden @ weight.T
    inputs = (logits, target, mask, rows[0] + 0.5, *rows, 0.7, None, None, impl, torch.empty_like(logits))
    torch.library.opcheck(logits_operator.logits_backward_op, inputs, test_utils=checks)


def test_opcheck_from_logits(problem, impl):
    hidden, weight, _, target, mask = problem
    logits = (hidden @ weight.T).requires_grad_()
    for temperature_T in (None, torch.linspace(0.5, 2.0, 6, device=logits.device)):
        inputs = (logits, target, mask, temperature_T, 0.7, None, True, False, None, impl)
        torch.library.opcheck(logits_operator.logits_op, inputs, test_utils=CHECKS)


def losses(problem, impl, inplace=False):
    """Frozen head; trainable head with entropy; from logits."""
    _, _, bias, target, mask = problem

    def frozen(hidden, weight):
        return linear_logprob(hidden, weight.detach(), target, mask=mask, impl=impl).square().sum()

    def trainable(hidden, weight):
        logp, entropy = linear_logprob(hidden, weight, target, bias=bias, return_entropy=True, impl=impl)
        return (logp * 2 + entropy).sum()

    def from_logits(hidden, weight):
        logits = hidden @ weight.T
        return logprob(logits, target, mask=mask, inplace_backward=inplace, impl=impl).square().sum()

    return [frozen, trainable, from_logits]


@pytest.mark.parametrize(("which", "inplace"), [(0, False), (1, False), (2, False), (2, True)])
def test_compiled_whole(which, inplace, problem, impl):
    """One graph, in which each direction is one node of ours; the same numbers as eager."""
    function = losses(problem, impl, inplace)[which]
    nodes = []

    def keep(graph, example_inputs):
        # An operator that writes into an argument hangs in a node of torch's as its first argument.
        nodes.extend(n for n in graph.graph.nodes if "aslfast" in f"{n.target}{n.args[:1] if n.args else ''}")
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    results = []
    for call in (function, compiled):
        leaves = [x.clone().requires_grad_() for x in problem[:2]]
        call(*leaves).backward()
        results.append([x.grad for x in leaves if x.grad is not None])
    assert len(nodes) == 2, nodes
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(eager, other, rtol=0, atol=1e-6)


def test_fake_tensors(problem, impl):
    """Shapes and dtypes without a value being looked at: the targets are out of range."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        hidden, weight = (torch.empty(x.shape, device=x.device).bfloat16().requires_grad_() for x in problem[:2])
        target = torch.full((6,), -100, device=hidden.device)
        logp, entropy = linear_logprob(hidden, weight, target, return_entropy=True, impl=impl)
        (logp.sum() + entropy.sum()).backward()
        assert (logp.shape, logp.dtype, entropy.shape) == ((6,), torch.float32, (6,))
        assert (hidden.grad.shape, hidden.grad.dtype) == (hidden.shape, torch.bfloat16)
        assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, torch.bfloat16)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_is_a_call_in_its_dtype(which, compiled, problem, impl):
    """The same numbers as of bfloat16 hidden states and head, but gradients that are not rounded to bfloat16."""
    function, results = losses(problem, impl)[which], []
    torch._dynamo.reset()
    function = torch.compile(function, fullgraph=True, backend="eager") if compiled else function
    for dtype, enabled in ((torch.bfloat16, False), (torch.float32, True)):
        leaves = [x.to(dtype).requires_grad_() for x in problem[:2]]
        with torch.autocast(problem[0].device.type, dtype=torch.bfloat16, enabled=enabled):
            loss = function(*leaves)
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in leaves if x.grad is not None)])
    # The plain call of a frozen head rounds twice: the residual too is kept in the dtype of the hidden states.
    twice = 2.0**-7 if which == 0 else 0.0
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == torch.float32
        torch.testing.assert_close(plain, cast.to(plain.dtype), rtol=twice if plain.dim() else 0.0, atol=0)
    assert not torch.equal(results[1][-1], results[1][-1].bfloat16().float())


@pytest.mark.parametrize("wide", [0, 1])
def test_factors_of_two_dtypes_are_multiplied_in_the_wider(wide, problem, impl, monkeypatch):
    """The same numbers as of float32 tensors; a narrow head is widened in pieces."""
    if impl == "triton":
        from aslfast_kernels.logprobs import head

        monkeypatch.setattr(head, "WIDENED_BYTES", 4 * 16 * 11)  # 11 rows of 70
    narrow = [x.bfloat16() for x in problem[:2]]
    results = []
    for mixed in (False, True):
        leaf, weight = (x if mixed and i != wide else x.float() for i, x in enumerate(narrow))
        leaf = leaf.clone().requires_grad_()
        loss = linear_logprob(leaf, weight, problem[3], mask=problem[4], impl=impl).square().sum()
        loss.backward()
        results.append((loss.detach(), leaf.grad.float()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=2e-6, atol=0)
    rounding = 0.0 if wide == 0 else 2.0**-7  # twice in the hidden states' bfloat16: the residual and the gradient
    size = float(results[0][1].abs().max())
    torch.testing.assert_close(results[0][1], results[1][1], rtol=rounding, atol=2e-6 * size)
