"""The topics that the generator writes questions about."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aslfast.errors import UserError
from aslfast.files.text import read_text


def read_topics(place: str) -> list[str]:
    """Read a file with one topic a line; "general" names the 73 that ship with aslfast. Raises UserError."""
    path = Path(str(files("aslfast.data") / "general_topics.txt")) if place == "general" else Path(place)
    if not path.is_file():
        raise UserError(f"{path}: no such topics file; give a text file with one topic a line")
    topics = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not topics:
        raise UserError(f"{path}: no topics in it; give a text file with one topic a line")
    return topics
