"""The options of `aslfast report`, `aslfast watch` and `aslfast trajectories`: what a run left, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import Json
from aslfast.errors import UserError
from aslfast.limits import MOST_STEPS

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def report(
    run: RunFolder,
    as_json: Json = False,
    html: Annotated[bool, typer.Option("--html", help="Write one HTML file with everything to look at.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file.", show_default="RUN/report.html")] = None,
    compare: Annotated[
        Path | None, typer.Option("--with", metavar="RUN", help="A second run in the same page.", show_default=False)
    ] = None,
) -> None:
    """Print the tables of a run and draw its curves.png again, or write its page."""
    if not html:
        if out or compare:
            raise UserError(f"{'--out' if out else '--with'} goes with --html")
        from aslfast.cli.report import print_report

        print_report(run, as_json)
        return
    from aslfast.cli.page.html import print_page

    print_page([run, *([compare] if compare else [])], out or run / "report.html", as_json)


def watch(
    run: RunFolder,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8008,
) -> None:
    """Serve the page of a run, live, on this machine alone; the folder is only read."""
    from aslfast.cli.page.watch import serve

    serve(run, port, lambda url: print(f"watching {run} at {url}", flush=True))


# one parameter an option
def trajectories(
    run: RunFolder,
    role: Annotated[str | None, typer.Option("--role", help="Of this role.", show_default="all")] = None,
    number: Annotated[
        int | None, typer.Option("--round", min=0, max=MOST_STEPS, help="Of this round.", show_default="all")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=1, max=MOST_STEPS, help="Of this step of a phase.", show_default="all")
    ] = None,
    where: Annotated[
        str, typer.Option("--where", metavar="TEXT", help='Conditions, as "reward<0.5 and stop=finished".')
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="The first so many.")] = 5,
    as_json: Json = False,
) -> None:
    """Print trajectories of a run to read, or one JSON object a line."""
    from aslfast.cli.page.listing import Wanted, print_trajectories
    from aslfast.cli.page.where import parse_where

    print_trajectories(run, Wanted(role, number, step, parse_where(where), limit), as_json)
