"""One kernel configuration to compile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One configuration. Pointers and sizes are taken as divisible by 16, those in `ragged` not."""

    name: str
    kernel: Any  # a triton.jit function
    signature: dict[str, str]  # types of the run-time arguments by name
    constexprs: dict[str, Any]
    options: dict[str, int]  # num_warps, num_stages
    is_matrix: bool = False
    ragged: frozenset[str] = frozenset()

    def with_ragged(self, aligned: Iterable[str]) -> Entry:
        """Return it for tensors and sizes of which nothing is known but that the launch makes `aligned` so."""
        return self._replace(name=f"{self.name}, ragged", ragged=frozenset(self.signature).difference(aligned))
