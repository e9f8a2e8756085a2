"""Counting what the log-probs' operators do inside: arithmetic of matrix products, bytes of the largest tensor."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import mm_flop

from aslfast_kernels.logprobs import dispatch


def head_problem(tokens, width, vocabulary):
    """Return hidden states, a head and targets."""
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(tokens, width, generator=g), torch.randn(vocabulary, width, generator=g)
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=g)


class ProductCounter(TorchDispatchMode):
    """Counts the arithmetic of matrix products and the bytes of the largest result."""

    def __init__(self):
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:
            parts = func.decompose(*args, **(kwargs or {}))  # linear and matmul into mm, as FlopCounterMode does it
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            a, b = args[-2:]
            self.flops += mm_flop(a.shape, b.shape)
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.itemsize)
        return out


def count_products(monkeypatch):
    """Return a counter that every operator enters: around the call a mode would see the operator as one."""
    mode = ProductCounter()
    monkeypatch.setattr(dispatch, "exact_launches", lambda tensor: mode)
    return mode
