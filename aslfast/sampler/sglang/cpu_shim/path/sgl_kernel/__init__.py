"""Replacement of SGLang's compiled kernels on a CPU: every name can be imported, none can be called.

No operator is registered either, which is how SGLang tells that it must use plain torch.
"""

from __future__ import annotations

from collections.abc import Callable

__version__ = "0.0"


def __getattr__(name: str) -> Callable[..., object]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> object:
        raise NotImplementedError(f"sgl_kernel.{name} does not exist on a CPU")

    return missing
