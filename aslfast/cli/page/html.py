"""The page as one HTML file: style, scripts and data inside it, and a policy that lets it load and send nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from aslfast.cli.options import print_json
from aslfast.cli.page.run_data import RunData
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_file

WEB = files("aslfast.cli.page") / "web"
# in the order in which they are joined: each uses what stands before it, main.js starts the page
SCRIPTS = (
    "vendor/uPlot.iife.min.js", "data.js", "dom.js", "charts.js", "overview.js", "rounds.js", "list.js", "viewer.js",
    "compare.js", "about.js", "main.js",
)  # fmt: skip
DOCTYPE = b"<!doctype html>"
STYLES = ("vendor/uPlot.min.css", "page.css")


def write_page(runs: Sequence[Path], out: Path) -> tuple[int, int]:
    """Write the page of one run, or of two to compare; return how many trajectories there are and are shown.

    Raise UserError.
    """
    data = [RunData(run) for run in runs]
    for each in data:
        each.read()
    metas = [each.meta() for each in data]  # also checks that there is something to show
    _check_out(out)
    try:
        with atomic_file(out) as partial, open(partial, "w", encoding="utf-8") as file:
            file.writelines(page([[meta, *each.all_chunks()] for meta, each in zip(metas, data, strict=True)]))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return sum(each.total for each in data), sum(each.kept for each in data)


def _check_out(out: Path) -> None:
    """Raise UserError where the page would take the place of something else."""
    if not out.name:
        raise UserError("--out is empty; name a file")
    if not out.is_file():
        return
    with out.open("rb") as file:
        is_page = file.read(len(DOCTYPE)) == DOCTYPE
    if not is_page:
        raise UserError(f"{out}: exists and is no page; choose another --out or remove it")


def print_page(runs: Sequence[Path], out: Path, as_json: bool) -> None:
    """Write the page and say where it is. Raise UserError."""
    total, kept = write_page(runs, out)
    said = {"page": str(out), "bytes": out.stat().st_size, "trajectories": total, "shown": kept}
    shown = f"{total:,} trajectories" + (f", of which it shows {kept:,}, whole groups" if kept < total else "")
    print_json(said) if as_json else print(f"Page: {out} ({said['bytes'] / 1e6:.1f} MB, {shown})")


def page(packed: Sequence[Sequence[bytes]], live: bool = False) -> Iterator[str]:
    """Yield the page's text. packed: of each run its meta data and chunks. live: it asks its server for them."""
    style, script = _joined(STYLES), "(() => {\n'use strict';\n" + _joined(SCRIPTS) + "\n})();"
    connect = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        f"connect-src {connect}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    head, _, body = (WEB / "page.html").read_text(encoding="utf-8").partition("<!--head-->")
    yield head
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
    yield body
    yield f'<script type="application/octet-stream" id="live">{int(live)}</script>\n'
    for run, parts in enumerate(packed):
        for number, part in enumerate(parts):
            encoded = base64.b64encode(part).decode()
            yield f'<script type="application/octet-stream" id="run-{run}-{number}">{encoded}</script>\n'
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def _joined(names: Sequence[str]) -> str:
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
