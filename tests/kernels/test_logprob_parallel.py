"""Vocabulary-parallel heads and logits: two gloo processes with uneven slices against one process with the whole."""

import os

import pytest
import torch
import torch.distributed as dist

from aslfast_kernels import linear_logprob, logprob
from tests.support.kernels import triton_interpreter

CASES = {
    "frozen": {},
    "recomputed": {"residual": "recompute"},
    "trainable with entropy": {"return_entropy": True, "softcap": 5.0, "temperature": 0.7},
}
LOGITS = {
    "logits": {},
    "logits, in place": {"inplace_backward": True, "temperature": 0.7},
    "logits with entropy": {"return_entropy": True, "softcap": 5.0, "temperature": torch.linspace(0.5, 2.0, 9)},
    "logits, one rank's all forbidden": {"return_entropy": True},
}
SIZES = (600, 500)


def run(case, rows, impl, group=None):
    """Return the loss, log-probs and the gradients: hidden's, and those of this slice of the head or the logits."""
    if case in LOGITS:
        return run_logits(case, rows, impl, group)
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 16, generator=g), torch.randn(1100, 16, generator=g) * 0.5
    bias, target = torch.randn(1100, generator=g), torch.tensor([0, 599, 600, 1099, 5, 700, 42, 1000, 599])
    mask = torch.arange(9) != 4
    trainable = case.startswith("trainable")
    leaves = [hidden, weight[rows].clone(), bias[rows].clone()]
    leaves = [x.requires_grad_(i == 0 or trainable) for i, x in enumerate(leaves)]
    options = CASES[case] | {"bias": leaves[2], "mask": mask, "impl": impl, "tp_group": group}
    out = linear_logprob(*leaves[:2], target, **options)
    logp, entropy = out if trainable else (out, torch.zeros(9))
    loss = (logp * torch.linspace(-1, 2, 9)).sum() + 0.3 * entropy.sum()
    loss.backward()
    return [loss.detach(), logp.detach(), *(x.grad for x in leaves if x.grad is not None)]


def run_logits(case, rows, impl, group):
    """Return the loss, log-probs, nothing shared, and the gradient of this slice of the logits."""
    g = torch.Generator().manual_seed(0)
    logits, target = 3 * torch.randn(9, 1100, generator=g), torch.tensor([0, 599, 600, 1099, 5, 700, 42, 1000, 599])
    if "forbidden" in case:
        target[:] = target % 600
        logits[:, 600:] = -torch.inf
    leaf = logits[:, rows].clone().requires_grad_()
    options = LOGITS[case] | {"mask": torch.arange(9) != 4, "impl": impl, "tp_group": group}
    out = logprob(leaf * 1.0, target, **options)
    logp, entropy = out if isinstance(out, tuple) else (out, torch.zeros(9))
    loss = (logp * torch.linspace(-1, 2, 9)).sum() + 0.3 * entropy.sum()
    loss.backward()
    return [loss.detach(), logp.detach(), entropy.detach(), leaf.grad.T]


def work(rank, folder, impls):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    from aslfast_kernels.logprobs import head, reference

    triton_interpreter.patch()
    # Chunks of 4 rows by the larger slice, 5 by the smaller: the ranks must agree, or their collectives never meet.
    reference.CHUNK_ELEMENTS = 4 * SIZES[0] + 100
    head.WORKSPACE_BYTES = 5 * 512 * 4
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], sum(SIZES))
    results = {(case, impl): run(case, rows, impl, dist.group.WORLD) for case in [*CASES, *LOGITS] for impl in impls}
    try:
        linear_logprob(torch.zeros(1, 4), torch.zeros(3, 4), torch.tensor([6]), tp_group=dist.group.WORLD)
    except ValueError as error:
        results["refused"] = str(error)
    try:
        logprob(torch.zeros(1, 3), torch.tensor([6]), tp_group=dist.group.WORLD)
    except ValueError as error:
        results["refused from logits"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what the two processes computed; Triton runs in its interpreter there."""
    pytest.importorskip("triton")
    folder, before = tmp_path_factory.mktemp("ranks"), os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        torch.multiprocessing.spawn(work, (str(folder), ("torch", "triton")), nprocs=2)
    finally:
        os.environ.pop("TRITON_INTERPRET") if before is None else os.environ.update(TRITON_INTERPRET=before)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("case", [*CASES, *LOGITS])
def test_two_processes_give_what_one_gives(case, impl, ranks):
    loss, logp, *gradients = run(case, slice(None), "torch")
    first, second = (results[case, impl] for results in ranks)
    for mine in (first, second):
        torch.testing.assert_close(mine[0], loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mine[1], logp, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mine[2], gradients[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(first[2], second[2]), "the ranks' copies of the model would drift apart"
    assert len(first) == 2 + len(gradients)
    for halves, whole in zip(zip(first[3:], second[3:], strict=True), gradients[1:], strict=True):
        torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-6, atol=1e-6)


def test_a_target_beyond_the_whole_vocabulary_is_refused(ranks):
    for results in ranks:
        for name in ("refused", "refused from logits"):
            assert results[name].startswith("target_T[0]: got 6, expected 0..5")
