"""Checks at the boundary: every error names the argument, what it got and what was expected."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read once: Triton too decides when kernels are imported
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def choose_impl(impl: str | None, tensor: Tensor, float64: bool = False) -> str:
    """Return the implementation to run on `tensor`'s device; None means "triton" on CUDA and "torch" elsewhere.

    float64: whether the kernel takes it. Raises ValueError or TypeError where Triton cannot run.
    """
    check_choice("impl", impl, (None, "torch", "triton"))
    if (impl or ("triton" if tensor.is_cuda else "torch")) == "torch":
        return "torch"
    if not _HAS_TRITON:
        raise ValueError('impl: "triton" needs the package triton; install it, or pass impl="torch"')
    if not (tensor.is_cuda or _INTERPRETED):
        suggestion = 'pass impl="torch" (or start Python with TRITON_INTERPRET=1, slow and for tests)'
        raise ValueError(f'impl: "triton" needs CUDA tensors, got {tensor.device.type}; {suggestion}')
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, *((torch.float64,) if float64 else ())):
        raise TypeError(f'impl: "triton" takes float32, float16 and bfloat16, got {tensor.dtype}; pass impl="torch"')
    return "triton"


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 for float64 inputs (so that gradcheck works), else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_positive(name: str, value: float | None, above: float = 0.0) -> None:
    """Raise ValueError unless `value` is a finite number greater than `above`; None is refused like any other."""
    if value is None or not (math.isfinite(value) and value > above):
        raise ValueError(f"{name}: got {value!r}, expected a finite number > {above:g}")


def check_not_negative(name: str, value: float, infinite: bool = False) -> None:
    """Raise ValueError unless `value` is a number of at least 0, finite unless it may be `infinite`."""
    if not (value >= 0 and (infinite or math.isfinite(value))):
        raise ValueError(f"{name}: got {value!r}, expected a {'' if infinite else 'finite '}number >= 0")


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int | None], kind: str, like: Tensor | None = None) -> None:
    """Check the shape (None = any size), the dtype's kind and, with `like`, the device.

    kind: "float", "integer", "bool", or "number" for any of them.
    Raises TypeError for the kind, ValueError for the shape and the device.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a torch.Tensor")
    expected = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
    same = tensor.dim() == len(shape) and all(e is None or e == g for e, g in zip(shape, tensor.shape, strict=True))
    if not same:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {expected}")
    fits = {
        "float": tensor.is_floating_point(),
        "integer": tensor.dtype in _INTEGERS,
        "bool": tensor.dtype == torch.bool,
        "number": not tensor.is_complex(),
    }
    if not fits[kind]:
        raise TypeError(f"{name}: got {tensor.dtype}, expected a {kind} tensor")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name}: got device {tensor.device}, expected {like.device}")


def as_mask(name: str, mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the mask [T] as bool: what is not 0 is True. Raise as `check_tensor` does; T is `like`'s first axis."""
    if mask is None:
        return None
    check_tensor(name, mask, (like.shape[0],), "number", like)
    return mask if mask.dtype == torch.bool else mask != 0


def check_indices(name: str, index: Tensor, low: int, high: int, hint: str = "", mask: Tensor | None = None) -> None:
    """Raise ValueError, naming the first, where a value of the 1-D `index` (under `mask`) is outside low..high-1."""
    bad = (index < low) | (index >= high)
    bad = bad if mask is None else bad & mask
    if bad.any():
        at = int(bad.nonzero()[0])
        raise ValueError(f"{name}[{at}]: got {int(index[at])}, expected {low}..{high - 1}{hint}")
