"""The pages of the site from those of the repository: the same texts, with links that lead to the site's places."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from docs.site.notebooks import notebook_text

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {  # pages outside docs/, and where they are in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "kernels/README.md": "kernels/README.md",
    "docs/README.md": "documents.md",
    "examples/notebooks/README.md": "notebooks/index.md",
    "examples/notebooks/demo.ipynb": "notebooks/demo.md",
    "examples/notebooks/kernels.ipynb": "notebooks/kernels.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def places() -> dict[str, str]:
    """Return where each page and picture of the repository is in the site."""
    inside = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "img").glob("*.png")]
    found = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in inside}
    return found | ELSEWHERE


def write_pages(out: Path) -> None:
    """Write all pages and pictures under `out`."""
    where = places()
    for source, place in where.items():
        goal = out / place
        goal.parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            text = notebook_text(text) if source.endswith(".ipynb") else text
            goal.write_text(page(text, source, where), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, goal)


def page(text: str, source: str, where: Mapping[str, str]) -> str:
    """Return a page's text for its place in the site."""
    parts = FENCE.split(text)
    parts[::2] = [lists_apart(LINK.sub(lambda found: link(found, source, where), part)) for part in parts[::2]]
    return "".join(parts)


def link(found: re.Match[str], source: str, where: Mapping[str, str]) -> str:
    """Return a link to the target's place in the site; of a file that the site has not, the text alone."""
    target, _, anchor = found[3].partition("#")
    if not target or "://" in target:
        return found[0]
    wanted = os.path.normpath(PurePosixPath(source).parent / target)
    if wanted not in where:
        return found[2]
    way = os.path.relpath(where[wanted], PurePosixPath(where[source]).parent)
    return f"{found[1]}[{found[2]}]({way}{'#' + anchor if anchor else ''})"


def lists_apart(text: str) -> str:
    """Put an empty line before a list that follows a paragraph: Markdown of the site asks for it, GitHub's does not."""
    return re.sub(r"(?m)^((?![-|#\s]|\d+\. ).+)\n(?=- |1\. )", r"\1\n\n", text)
