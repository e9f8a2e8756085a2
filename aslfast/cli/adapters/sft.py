"""The work of `aslfast sft`: a fine-tuning with its progress, or its resumption, and the table at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.cli.progress import Meter, quiet_libraries, stdout
from aslfast.trainer.sft.folder import START, Line
from aslfast.trainer.sft.run import SftObserver, resume_sft, sft
from aslfast.trainer.sft.settings import SftConfig


def run_sft(out: Path, options: Mapping[str, Any] | None, quiet: bool) -> dict[str, Any]:
    """Start with these options, or resume where they are None; return the summary. Raise UserError."""
    quiet_libraries()
    try:
        with Meter("sft", None, "steps", quiet) as meter:
            observer = SftProgress(meter)
            return resume_sft(out, observer) if options is None else sft(SftConfig(**options), out, observer)
    except KeyboardInterrupt as stop:
        resumable = (out / START).is_file()
        hint = f"; go on with: aslfast sft --resume {shlex.quote(str(out))}" if resumable else ""
        raise KeyboardInterrupt(f"stopped{hint}") from stop


class SftProgress(SftObserver):
    """One bar over the optimizer steps; a line that stays for each epoch."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def setup(self, what: str) -> None:
        self.meter.advance(0, note=f"opening {what}")

    def started(self, done: int, total: int) -> None:
        self.meter.total = total
        self.meter.move_to(done, note="evaluating" if not done else None)
        self.meter.restart()

    def step(self, line: Line, tokens: int) -> None:
        self.meter.advance(1, tokens, f"loss {line['loss']:.3f}")

    def epoch(self, line: Line) -> None:
        if not line["epoch"]:
            self.meter.restart()  # the pace of the evaluation is not that of the steps
        names = {"train_loss": "train loss", "dev_loss": "dev loss", "dev_token_accuracy": "dev token accuracy"}
        found = ", ".join(f"{text} {line[key]:.4f}" for key, text in names.items() if key in line)
        self.meter.say(f"epoch {line['epoch']}: {found or 'before the first step'}")

    def warning(self, text: str) -> None:
        self.meter.say(text)


def print_sft(summary: Mapping[str, Any]) -> None:
    """Print an epoch a row, then where the adapter is."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("epoch", "steps", "train loss", "dev loss", "dev token accuracy"):
        made.add_column(name, justify="right")
    for line in summary["epochs"]:
        values = [f"{line[k]:.4f}" if k in line else "-" for k in ("train_loss", "dev_loss", "dev_token_accuracy")]
        made.add_row(str(line["epoch"]), str(line["step"]), *values)
    stdout().print(made)
    left = "".join(f"; left out {n:,}: {reason}" for reason, n in summary["left_out"].items())
    print(
        f"{summary['out']}: adapter of {summary['role']} from {summary['rows']:,} rows, {summary['dev_rows']:,} for "
        f"evaluation{left}; {summary['tokens']:,} tokens at {summary['tokens_per_s']:,.0f} tokens/s, "
        f"{summary['peak_memory_gb']:.1f} GB"
    )
