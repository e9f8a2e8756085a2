"""Options that several commands share, and the printing of a result for programs."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from aslfast.limits import MOST, MOST_SEED, MOST_THREADS

OUTPUT, SAMPLING = "Output", "Sampling"
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.", rich_help_panel=OUTPUT)]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.", rich_help_panel=OUTPUT)
]
IndexOption = Annotated[
    str,
    typer.Option(
        "--index", metavar="IDX|URL", help="Folder of the index to search in, or http://host:port of a server."
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="Q",
        help="Questions with answers: .parquet, .jsonl, .json, .csv or .tsv, in the format of FlashRAG, Search-R1 or "
        "the dataset's authors.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, max=MOST, metavar="N", help="Use only the first N questions.")
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="SET",
        help="Prompt set: full, small (small instruct models), compact (the tiny base), or a folder of one's own.",
        rich_help_panel=SAMPLING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=MOST_SEED, help="Random seed; the same seed gives the same result."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=0, max=MOST_THREADS, help="CPU threads to use; 0 means all cores.")
]


def print_json(value: object) -> None:
    """Print one JSON object, the only output on stdout; escaped where stdout's encoding lacks a character of it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text)


def print_any_text() -> None:
    """Let stdout and stderr escape what their encoding lacks, such as Japanese in ASCII, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
