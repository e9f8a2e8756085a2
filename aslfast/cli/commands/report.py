"""The options of `aslfast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    as_json: Json = False,
) -> None:
    """Print the tables of a run and draw its curves.png again."""
    from aslfast.cli.report import print_report

    print_report(run, as_json)
