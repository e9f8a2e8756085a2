"""What every function takes from other projects: masks of any dtype, tensors of another device, split heads, graphs."""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from aslfast_kernels import group_advantage, linear_logprob, logprob, policy_loss
from aslfast_kernels.advantages import operators as advantage_operators
from aslfast_kernels.logprobs import reference as logprobs
from aslfast_kernels.losses import reference as losses
from tests.support.kernels.policy_cases import batch
from tests.support.matrix_products import head_problem


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.bfloat16])
def test_a_mask_is_what_is_not_zero(dtype):
    hidden, weight, target = head_problem(60, 4, 30)
    b = batch(torch.float32)
    bool_T = b.pop("mask_T")
    results = [
        torch.cat([
            linear_logprob(hidden, weight, target, mask=mask),
            logprob(hidden @ weight.T, target, mask=mask),
            policy_loss(b["logp_T"], b["old_logp_T"], b["advantage"], mask_T=mask)[0][None],
        ])
        for mask in (bool_T, bool_T.to(dtype))
    ]  # fmt: skip
    assert torch.equal(*results) and bool_T.any() and not bool_T.all()


class Guarded:
    """Stands for torch.cuda.device_of, and notes which functions ran for a tensor's device, and which outside."""

    def __init__(self, monkeypatch):
        self.within, self.seen, self.monkeypatch = [], [], monkeypatch
        monkeypatch.setattr(torch.cuda, "device_of", self.device_of)

    @contextmanager
    def device_of(self, tensor):
        self.within.append(tensor.shape)
        yield
        self.within.pop()

    def watch(self, module, name, result=None):
        """Note calls of a function; `result`: what it returns instead of running, where it cannot run here."""
        original = getattr(module, name)

        def noted(*args, **kwargs):
            self.seen.append((name, self.within[-1] if self.within else None))
            return original(*args, **kwargs) if result is None else result

        self.monkeypatch.setattr(module, name, noted)


def test_everything_runs_on_its_tensors_device(monkeypatch):
    """Of tensors on cuda:1 while cuda:0 is current, kernels would be launched on cuda:0 without the guard."""
    guard = Guarded(monkeypatch)
    for name in ("linear_forward", "linear_backward", "logits_forward", "logits_backward"):
        guard.watch(logprobs, name)
    for name in ("policy_loss", "policy_loss_backward"):
        guard.watch(losses, name)
    hidden, weight, target = head_problem(6, 4, 30)
    leaf = hidden.requires_grad_()
    linear_logprob(leaf, weight, target, residual="recompute").sum().backward()
    logprob(leaf @ weight.T, target).sum().backward()
    logp = torch.zeros(7, requires_grad=True)
    policy_loss(logp, torch.zeros(7), torch.ones(7))[0].backward()
    assert dict(guard.seen) == {
        "linear_forward": (6, 4), "linear_backward": (6, 4), "logits_forward": (6, 30), "logits_backward": (6, 30),
        "policy_loss": (7,), "policy_loss_backward": (7,),
    }  # fmt: skip


def test_group_advantage_is_launched_on_its_device(monkeypatch):
    advantages = pytest.importorskip("aslfast_kernels.advantages.fused", exc_type=ImportError)
    guard, rewards = Guarded(monkeypatch), torch.tensor([1.0, 0.0, 2.0])
    guard.watch(advantages, "group_advantage", result=(torch.zeros(3), torch.tensor([[3, 0]])))
    operator = advantage_operators.advantage_op
    assert operator(rewards, torch.zeros(3).long(), "mean", "group", 1e-6, False, False, None, "triton").tolist() == [
        0.0,
        0.0,
        0.0,
    ]
    assert guard.seen == [("group_advantage", (3,))]
    assert group_advantage(rewards, torch.zeros(3).long()).sum().abs() < 1e-6


def test_what_waits_for_the_device_is_kept_out_of_cuda_graphs():
    """`policy_loss` waits for nothing; scaling a saved residual neither."""
    operators = torch.ops.aslfast_kernels
    names = ("linear_logprob", "linear_logprob_backward", "logprob", "logprob_backward", "scale_residual")
    names += ("group_advantage", "policy_loss", "policy_loss_backward")
    unsafe = {name for name in names if torch.Tag.cudagraph_unsafe in getattr(operators, name).default.tags}
    assert unsafe == {"linear_logprob", "linear_logprob_backward", "logprob", "group_advantage"}


def split_head(rank, folder):
    """Write this rank's results with a head of 30 rows split over two ranks, as FSDP2 does it."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    hidden, weight, target = head_problem(6, 4, 30)
    leaf = hidden[rank::2].requires_grad_()  # every rank has tokens of its own
    split, bias = (distribute_tensor(x, mesh, [Shard(0)]) for x in (weight, torch.linspace(-1, 1, 30)))
    logp = linear_logprob(leaf, split, target[rank::2], bias=bias)
    logp.sum().backward()
    try:
        linear_logprob(leaf, split.detach().requires_grad_(), target[rank::2])
    except ValueError as error:
        torch.save((logp.detach(), leaf.grad, str(error)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_frozen_head_split_over_ranks_is_gathered(tmp_path):
    torch.multiprocessing.spawn(split_head, (str(tmp_path),), nprocs=2)
    hidden, weight, target = head_problem(6, 4, 30)
    for rank in range(2):
        leaf = hidden[rank::2].clone().requires_grad_()
        logp = linear_logprob(leaf, weight, target[rank::2], bias=torch.linspace(-1, 1, 30))
        logp.sum().backward()
        mine, gradient, refused = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(mine, logp.detach()) and torch.equal(gradient, leaf.grad)
        assert refused.startswith("weight_VD: got a trainable DTensor")
