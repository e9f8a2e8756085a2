"""Replacement of torchvision where only text is served: every name can be imported, none can be used."""

from __future__ import annotations

__version__ = "0.28"  # transformers compares it


class AnyName(type):
    def __getattr__(cls, name: str) -> type:
        return __getattr__(name)


class Missing(metaclass=AnyName):
    """Any name of any of these modules, and any attribute of it (InterpolationMode.NEAREST)."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("torchvision does not exist on a CPU")


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing
