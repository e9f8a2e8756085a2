"""Stands in for torchvision where only text is served: every name can be imported, none can be used."""

from __future__ import annotations

from typing import Any

__version__ = "0.28"  # transformers compares it


class AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        return __getattr__(name)


class Missing(metaclass=AnyName):
    """Any name of any of these modules, and any attribute of it (InterpolationMode.NEAREST)."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("torchvision is not there on a CPU")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing
