"""The prompt files: `prompts/<set>/<name>.txt`, one for each user message, and `system.txt`.

The set `compact` is for the tiny base, `full` for instruct models. The judge's and the generator's prompts have
variants: docs/rewards.md.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def prompt_text(prompt_set: str, name: str) -> str:
    """Return the text of a prompt file, without the white space around it."""
    return (files("aslfast.prompts") / prompt_set / f"{name}.txt").read_text(encoding="utf-8").strip()


def fill(template: str, **values: str) -> str:
    """Return the template with each {name} replaced, in one pass: braces in a value or in the template's JSON stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def one_line(text: str) -> str:
    """Return a text on one line: as data, it cannot write the prompt's next line."""
    return " ".join(text.split())
