"""Progress of long work, on stderr: a bar on a terminal, a line every 10 s elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_EVERY_S = 10.0  # between two lines where stderr is no terminal


def stderr() -> Console:
    """Return a console on stderr, which never breaks lines."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Return a console on stdout; where that is no terminal, wide enough for every table."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)


def printable(text: str) -> str:
    """Return a text of a model or a passage without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Meter:
    """The progress of one piece of work: done of total, a rate, the time left at the pace so far.

    The rate is that of `done`, or of tokens once `advance` is given any. Without a total it only counts.
    """

    def __init__(self, title: str, total: float | None, unit: str, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done, self.tokens, self.note = 0.0, 0, ""
        self._started = time.perf_counter()
        self._done_before = 0.0
        self._last_line = self._started
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        console = stderr()
        if not self.quiet and console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}")
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(self.title, total=self.total, state="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is None and not self.quiet:
            self.total = self.done
            seconds = clock(time.perf_counter() - self._started)
            stderr().print(f"{self.title}: {self.state()} in {seconds}", markup=False)

    def advance(self, amount: float = 1, tokens: int = 0, note: str | None = None) -> None:
        """Count an amount as done, and sampled tokens."""
        self.move_to(self.done + amount, tokens, note)

    def move_to(self, done: float, tokens: int = 0, note: str | None = None) -> None:
        """Set the amount done and, unless None, the note that follows the numbers; show both."""
        self.done, self.tokens, self.note = done, self.tokens + tokens, self.note if note is None else note
        if self.total is not None:
            self.total = max(self.total, done)
        if self._bar:
            self._bar.update(self._task, completed=done, total=self.total, state=self.state())
        elif not self.quiet and time.perf_counter() - self._last_line > PLAIN_EVERY_S:
            self._last_line = time.perf_counter()
            stderr().print(f"{self.title}: {self.state()}", markup=False)

    def restart(self) -> None:
        """Count rate and time left from now on."""
        self._started, self._done_before, self.tokens = time.perf_counter(), self.done, 0

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if not self.quiet:
            (self._bar.console if self._bar else stderr()).print(line, markup=False)

    def rate(self) -> float:
        """Return the rate since the start or restart: tokens a second, or units."""
        return (self.tokens or self.done - self._done_before) / max(time.perf_counter() - self._started, 1e-9)

    def state(self) -> str:
        """Return the progress as one line."""
        count = f"{self.done:,.0f}" + (f"/{self.total:,.0f}" if self.total and self.total > self.done else "")
        parts = [f"{count} {self.unit}", f"{self.rate():,.0f} {'tokens' if self.tokens else self.unit}/s"]
        done = self.done - self._done_before
        if self.total and done and self.done < self.total:
            elapsed = time.perf_counter() - self._started
            parts.append(f"{clock(elapsed / done * (self.total - self.done))} left")
        return ", ".join([*parts, *([self.note] if self.note else [])])


def quiet_libraries() -> None:
    """Turn off the progress bars and log lines of transformers, which would interleave with ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
