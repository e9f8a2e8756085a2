"""Stands in for SGLang's compiled kernels on a CPU: every name can be imported, none can be called.

No operator is registered either, which is how SGLang tells that it must use plain torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"sgl_kernel.{name} is not there on a CPU")

    return missing
