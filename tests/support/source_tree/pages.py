"""What the documentation names: commands, modules, files, links, recipe keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "kernels" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("aslfast", "kernels", "csrc", "bench", "tests", "docs")


def fenced(page: str, language: str) -> list[str]:
    """Return the code blocks of a language; "" is a block that names none."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def inline(page: str) -> list[str]:
    """Return what stands between single backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE))


def command_lines(page: str) -> Iterator[list[str]]:
    """Yield the words of every shell command, without its comment and what it is piped into; `a|b` is two commands."""
    blocks = [block.replace("\\\n", " ") for language in ("", "sh", "bash") for block in fenced(page, language)]
    for line in [*"\n".join(blocks).splitlines(), *inline(page)]:
        if re.match(r"(aslfast|python -m|torchrun|make) ", line.strip()):
            words = shlex.split(re.split(r"\s[|&>]", line)[0], comments=True)
            yield from map(list, product(*(word.split("|") for word in words)))


def links(page: str) -> list[str]:
    """Return the targets of all links and images that stay in the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page) if not re.match(r"[a-z]+://", target)]


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def paths(page: str) -> list[str]:
    """Return the files and folders of the repository that are named in backticks; * stands for any text."""
    named = (re.sub(r"(:\d+)+$|,$", "", word) for text in inline(page) for word in text.split())
    return [name for name in named if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./*{{}},-]+", name)]
