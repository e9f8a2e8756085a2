"""Where the files lie that ship with aslfast and are read by path."""

from __future__ import annotations

from pathlib import Path

LAB_BASE = Path(__file__).parent.parent / "lab" / "tiny-base"
LAB_BASES = {"lab": LAB_BASE, "lab2": LAB_BASE.with_name("tiny-base2")}  # by model.path
