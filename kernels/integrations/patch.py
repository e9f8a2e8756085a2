"""A reversible replacement of another package's functions, and the check that they still take what we know."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Patch:
    """Names of another package that stand for our functions until `undo`, or until a `with` block ends."""

    def __init__(self) -> None:
        self._replaced: list[tuple[dict[str, Any], str, Any, Any]] = []

    def replace(self, namespace: dict[str, Any], name: str, value: object) -> None:
        """Let `name` mean `value` in `namespace` (vars() of a module, or a registry)."""
        self._replaced.append((namespace, name, namespace[name], value))
        namespace[name] = value

    def undo(self) -> None:
        """Put everything back; a second call does nothing.

        Raises RuntimeError, and changes nothing, where somebody else has replaced one of the names since.
        """
        for namespace, name, _, ours in self._replaced:
            if namespace[name] is not ours:
                raise RuntimeError(f"undo: {name} was replaced by another patch since; undo that one first")
        for namespace, name, theirs, _ in self._replaced:
            namespace[name] = theirs
        self._replaced.clear()

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def modules_with(package: str, name: str, value: object) -> list[dict[str, Any]]:
    """Return the namespaces of the package's loaded modules in which `name` is `value`: who imported it early."""
    modules = [module for key, module in list(sys.modules.items()) if module and key.partition(".")[0] == package]
    return [vars(module) for module in modules if vars(module).get(name) is value]


def check_parameters(where: str, function: Callable[..., Any], known: Sequence[str]) -> None:
    """Raise RuntimeError unless `function` has exactly the parameters `known`: with others its meaning may be new."""
    found = list(inspect.signature(function).parameters)
    if found != list(known):
        raise RuntimeError(f"{where}: takes {', '.join(found)}, we know {', '.join(known)}; it was not patched")
