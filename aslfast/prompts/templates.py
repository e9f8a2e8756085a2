"""The prompt files: `<set>/<name>.txt`, one for each user message, and `system.txt`.

The set `compact` is for the tiny base, `small` for instruct models below about a billion parameters, `full` for larger
ones; any other name is a folder of one's own, which takes the files that it lacks from `full`. The judge's and the
generator's prompts have variants: docs/rewards.md.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from aslfast.errors import UserError

PROMPT_SETS = ("compact", "small", "full")
MAX_PROMPT_BYTES = 100_000


@cache
def prompt_text(prompt_set: str, name: str) -> str:
    """Return the text of a prompt file, without the white space around it."""
    own = Path(prompt_set) / f"{name}.txt"
    if prompt_set not in PROMPT_SETS and own.is_file():
        return own.read_text(encoding="utf-8-sig").strip()
    shipped = prompt_set if prompt_set in PROMPT_SETS else "full"
    return (files("aslfast.prompts") / shipped / f"{name}.txt").read_text(encoding="utf-8").strip()


def system_text(prompt_set: str, only_search: bool = True) -> str:
    """Return the system message: `system.txt`, which tells of the search or is one's own, else `system-tools.txt`, to
    which the schemas of all tools are added."""
    own = prompt_set not in PROMPT_SETS and (Path(prompt_set) / "system.txt").is_file()
    return prompt_text(prompt_set, "system" if only_search or own else "system-tools")


def check_prompt_set(prompt_set: str, key: str = "model.prompts") -> None:
    """Raise UserError, at `key`, if a folder of prompts is missing, holds a file of no use, or one that lacks a gap."""
    if prompt_set in PROMPT_SETS:
        return
    if not Path(prompt_set).is_dir():
        raise UserError(f"{key}: no folder {prompt_set!r}; name one, or use one of {', '.join(PROMPT_SETS)}")
    names = sorted(file.name.removesuffix(".txt") for file in (files("aslfast.prompts") / "full").iterdir())
    own = sorted(Path(prompt_set).glob("*.txt"))
    if not own:
        raise UserError(f"{key}: {prompt_set} has no .txt file; it may hold {', '.join(names)}")
    for file in own:
        if file.stem not in names:
            raise UserError(f"{key}: {file} is of no use; a set holds {', '.join(names)}")
        _check_gaps(file, prompt_text("compact", file.stem), key)


def _check_gaps(file: Path, shipped: str, key: str) -> None:
    """Raise UserError if a prompt lacks a {gap} that the shipped one has."""
    if file.stat().st_size > MAX_PROMPT_BYTES:
        raise UserError(f"{key}: {file} has over {MAX_PROMPT_BYTES:,} bytes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {file} is not readable as UTF-8 ({error})") from None
    for gap in re.findall(r"\{\w+\}", shipped):
        if gap not in text:
            raise UserError(f"{key}: {file} lacks {gap}, which is where that text goes")


def fill(template: str, **values: str) -> str:
    """Return the template with each {name} replaced, in one pass: braces in a value or in the template's JSON stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def one_line(text: str) -> str:
    """Return a text on one line: as data, it cannot write the prompt's next line."""
    return " ".join(text.split())
