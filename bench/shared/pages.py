"""Documentation pages whose tables a benchmark writes."""

from __future__ import annotations

from collections.abc import Sequence


def replace_block(page: str, begin: str, end: str, lines: Sequence[str]) -> str:
    """Return the page with these lines between its markers `begin` and, after it, `end`."""
    before, rest = page.split(begin)
    _, after = rest.split(end, 1)
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])
