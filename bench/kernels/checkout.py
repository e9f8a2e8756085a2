"""Make aslfast_kernels importable from a bare checkout, so that a GPU machine needs no installation."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make_importable() -> None:
    """Put kernels/ on the path under its installed name."""
    link = ROOT / "build" / "typing" / "aslfast_kernels"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT / "kernels")
    sys.path.insert(0, str(link.parent))
