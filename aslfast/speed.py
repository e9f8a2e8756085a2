"""How fast a step was: seconds by part, FLOP/s of the learner, memory, requests in flight.

The floating-point operations that a learner's step cannot do without, by formula:

    frozen base     forward 2 N, backward 2 N (to the activations; no gradient of the weights), per token
    one adapter     forward 2 A, backward 4 A (to the activations and of the weights), per token
    head            4 D V per loss token: logits, and the gradient to the hidden state
    attention       forward 4 H d, backward 8 H d, per layer and pair of a query and a key that it attends to

N and A: matrix weights of the layers' base and of one adapter; a product of [m, k] and [k, n] is 2 m k n. Left out:
everything but matrix products, recomputation, and the base's own forward pass for a KL. Overcounted: the first layer's
backward to its input.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from peft import PeftModel

from aslfast.clock import CLOCK, Seconds

REPEATS = 10


def step_flops(model: PeftModel, tokens: int, loss_tokens: int, pairs: int, adapter: str) -> float:
    """Return the FLOPs of one step over `tokens` tokens through the model and `pairs` attention pairs."""
    base: Any = model.get_base_model()
    config = base.get_decoder().config
    frozen, own = _matrix_weights(base, adapter)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * head_dim * pairs
    head = 4 * config.hidden_size * config.vocab_size * loss_tokens
    return tokens * (4 * frozen + 6 * own) + attention + head


def _matrix_weights(base: Any, adapter: str) -> tuple[int, int]:
    """Return the matrix weights of the layers: the base's, and those of an adapter."""
    decoder = base.get_decoder()
    looked_up = {id(module.weight) for module in decoder.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [(name, p) for name, p in decoder.named_parameters() if p.dim() == 2 and id(p) not in looked_up]
    weights = [(name, p.numel()) for name, p in matrices]
    own = sum(n for name, n in weights if f".{adapter}." in name)
    return sum(n for name, n in weights if "lora_" not in name), own


def wall_s(run: Callable[[], object], device: str) -> float:
    """Return the wall seconds of a call, what it launched on a GPU included."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


@cache
def matmul_flops_per_s(
    device: str, dtype: torch.dtype, seconds_of: Callable[[Callable[[], object], str], float] = wall_s
) -> float:
    """Return the FLOP/s of one large matrix product on this device, the best of ten: what can be reached here."""
    n = 8192 if device == "cuda" else 1024
    own = torch.Generator(device).manual_seed(0)  # the run's random numbers stay what they are
    a, b = (torch.randn(n, n, device=device, generator=own).to(dtype) for _ in range(2))
    return 2 * n**3 / min(seconds_of(lambda: a @ b, device) for _ in range(REPEATS))


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory so far: what the allocator held on a GPU; on a CPU what of the process was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def return_freed_memory() -> None:
    """Return to the system what was freed, which glibc else keeps resident: a step's activations are 1 GB and more."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):  # not musl's
        libc.malloc_trim(0)


def model_flops_utilization(flops: float, seconds: float, model: PeftModel, devices: int) -> float | None:
    """Return FLOPs as a share of what one large product in the base's dtype would reach on so many devices in these
    seconds; None without any, and then nothing is measured."""
    if not (flops and seconds):
        return None
    return flops / seconds / (devices * matmul_flops_per_s(model.device.type, model.get_base_model().dtype))


class TimeMeter:
    """Where the time went since it was last asked."""

    def __init__(self) -> None:
        self._seconds, self._overlapped = CLOCK.seconds, dict(CLOCK.overlapped)

    def take(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return wall seconds by part since the last call, and what other threads did beside them by part."""
        seconds, overlapped = CLOCK.seconds, dict(CLOCK.overlapped)
        parts = {name: each.wall - self._seconds.get(name, Seconds()).wall for name, each in seconds.items()}
        beside = {name: each - self._overlapped.get(name, 0.0) for name, each in overlapped.items()}
        self._seconds, self._overlapped = seconds, overlapped
        return _passed(parts), _passed(beside)


def _passed(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 4) for name, seconds in parts.items() if seconds > 0}
