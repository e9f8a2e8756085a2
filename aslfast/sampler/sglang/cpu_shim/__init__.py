"""What SGLang 0.5.21 lacks to run on a CPU with nothing but the public wheels. Loaded in the engine's processes only.

- `sgl_kernel`: its CPU build is not on any index; path/sgl_kernel replaces the import, and SGLang then takes its plain
  torch code.
- `torchvision`: the public wheel is built for CUDA; with a CPU torch its operators do not load, and it fails at import
  where it looks for nms.
- pinned memory: SGLang's LoRA code asks for it; a torch without an accelerator refuses.
- attention.py and lora.py: SGLang's plain torch code for a batch loops over its requests; these do a batch at a time.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

PINNING = ("sglang.srt.lora.layers", "sglang.srt.lora.lora", "sglang.srt.lora.mem_pool")


def install(processes: int = 1) -> None:
    """Prepare this process and its children for the import of SGLang: call this before it.

    processes: how many of the engine hold the model between them.
    """
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(["0"] * processes)  # else it counts NUMA nodes
    sys.path.insert(0, str(Path(__file__).with_name("path")))
    torch.Tensor.pin_memory = lambda self, *_, **__: self


def install_backends() -> None:
    """Register ours under the names of SGLang's plain torch backends, in the scheduler."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.lora.backend.lora_registry import register_lora_backend

    from aslfast.sampler.sglang.cpu_shim.attention import BatchedAttention
    from aslfast.sampler.sglang.cpu_shim.lora import GroupedLora

    register_attention_backend("torch_native")(BatchedAttention)
    register_lora_backend("torch_native")(lambda: GroupedLora)
    for name in PINNING:
        vars(importlib.import_module(name))["torch"] = UnpinnedTorch()  # in these alone: torch itself stays as it is


class UnpinnedTorch(ModuleType):
    """torch as a module sees it, but `pin_memory=True` is ignored where a tensor is created."""

    def __init__(self) -> None:
        super().__init__("torch")
        for name in ("tensor", "empty", "zeros", "ones"):
            setattr(self, name, _unpinned(getattr(torch, name)))

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def _unpinned(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def without_pinning(*args: object, pin_memory: bool = False, **options: object) -> torch.Tensor:
        return create(*args, **options)

    return without_pinning
