"""What `bench/on_gpu.sh` found, as lines: a table of parts and, under it, what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]


def lines(out: Path, result: Result) -> Iterator[str]:
    """Yield the table, a line for everything missing, and whether the numbers mean something."""
    yield "| part | state | seconds | found |"
    yield "|---|---|---|---|"
    for part in result["parts"]:
        yield f"| {part['part']} | {part['state']} | {part['seconds']} | {_found(out, part)} |"
    yield from (f"missing: {line}" for line in result["not_installed"])
    for peer, reason in _read(out / "kernels.json").get("not_importable", {}).items():
        yield f"skipped {peer}: {reason}"
    if result["rehearsal"]:
        yield "a rehearsal: its times mean nothing"


def _found(out: Path, part: Result) -> str:
    """Return a part's figures; for one without a file of results the last line that it said."""
    figures = {"kernels": _kernels, "learner": _learner, "sampler": _sampler}.get(part["part"])
    result = _read(out / f"{part['part']}.json")
    if figures is None or not result:
        return part["said"][-1].replace("|", "/") if part["said"] else ""
    return figures(result)


def _kernels(result: Result) -> str:
    """Return ms of the first shape, ours and the fastest peer's."""
    rows = [row for row in result["rows"] if "ms" in row and row["shape"] == result["rows"][0]["shape"]]
    found = []
    for name in dict.fromkeys(row["pass"] for row in rows):
        of_pass = [row for row in rows if row["pass"] == name]
        ours = next((row["ms"] for row in of_pass if row["side"] == "aslfast"), None)
        peers = [(row["ms"], row["side"]) for row in of_pass if row["side"] != "aslfast"]
        found.append(f"{name} {ours} ms" + (f" (best peer {min(peers)[0]} ms, {min(peers)[1]})" if peers else ""))
    return "; ".join(found)


def _learner(result: Result) -> str:
    return "; ".join(f"{row['side']} {row['loss_tokens_per_s']} loss tokens/s" for row in result["rows"])


def _sampler(result: Result) -> str:
    return "; ".join(f"{side} {rate['median']} tokens/s" for side, rate in result["tokens_per_s"].items())


def _read(file: Path) -> Result:
    """Return a file of results, empty where a part left none or was stopped while it wrote."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
