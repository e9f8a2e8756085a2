"""One kernel configuration to compile."""

from __future__ import annotations

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One configuration. Pointers and sizes are taken as divisible by 16 unless the kernel says do_not_specialize."""

    name: str
    kernel: Any  # a triton.jit function
    signature: dict[str, str]  # types of the run-time arguments by name
    constexprs: dict[str, Any]
    options: dict[str, int]  # num_warps, num_stages
    is_matrix: bool = False
