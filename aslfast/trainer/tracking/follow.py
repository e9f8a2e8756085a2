"""Trackers follow the lines that a run commits, each exactly once and in order, also over kills and resumes.

RUN/trackers.json has each tracker's id and how many lines it was given. A line that was committed but not given, since
the run was killed in between, is given when the run is resumed. A tracker that fails is left out from then on, with one
warning: it never stops a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aslfast.checkpoint.base_run_dir import BaseRunDir
from aslfast.checkpoint.null_run_dir import NullRunDir
from aslfast.checkpoint.recovery import METRICS, ROUNDS
from aslfast.config import RunConfig
from aslfast.files.atomic import write_text
from aslfast.trainer.tracking.backends import TRACKERS, TrackedRun, Tracker
from aslfast.trainer.tracking.scalars import Line, round_scalars, step_scalars

STATE = "trackers.json"
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _State:
    """Of a tracker, for the next resume."""

    id: str = ""
    lines: int = 0


@dataclass
class _Followed:
    """A tracker and how many lines of the run it was given."""

    tracker: Tracker
    lines: int


@contextmanager
def tracked(config: RunConfig, run: BaseRunDir, warn: Warn) -> Iterator[None]:
    """Let the recipe's trackers follow a run in the block; on rank 0, which alone commits."""
    if not config.tracker or isinstance(run, NullRunDir):
        yield
        return
    followers = Followers(config, run, warn)
    run.followers.append(followers.line)
    try:
        yield
    finally:
        followers.close()


class Followers:
    """The trackers of a run. Lines have one order: those of a round's steps, then the round's own."""

    def __init__(self, config: RunConfig, run: BaseRunDir, warn: Warn) -> None:
        self._run, self._warn, self._steps = run, warn, 0
        self._given: list[tuple[dict[str, float], int]] = []  # numbers of the lines, each with its step
        for file, line in _in_order(run.history):
            self._add(file, line)
        self._known, self._followed = _read_state(run.path / STATE), dict[str, _Followed]()
        for name in config.tracker:
            self._try(name, partial(self._open, name, asdict(config)))
        self._catch_up()

    def line(self, file: str, line: Line) -> None:
        """Give a line that was committed to all trackers."""
        if file in (METRICS, ROUNDS):
            self._add(file, line)
            self._catch_up()

    def close(self) -> None:
        """Close all trackers."""
        for name, followed in list(self._followed.items()):
            self._try(name, followed.tracker.close)

    def _add(self, file: str, line: Line) -> None:
        self._steps += file == METRICS
        self._given.append((step_scalars(line) if file == METRICS else round_scalars(line), self._steps))

    def _open(self, name: str, config: Mapping[str, Any]) -> None:
        before = self._known.get(name, _State())
        lines = min(before.lines, len(self._given))  # a damaged commit may have been undone
        next_step = self._given[lines][1] if lines < len(self._given) else self._steps + 1
        _, make = TRACKERS[name]
        self._followed[name] = _Followed(make(TrackedRun(self._run.path, config, before.id, next_step)), lines)

    def _catch_up(self) -> None:
        for name, followed in list(self._followed.items()):
            self._try(name, partial(self._give, followed))
        self._known |= {name: _State(one.tracker.id, one.lines) for name, one in self._followed.items()}
        self._try(STATE, self._write_state)

    def _write_state(self) -> None:
        state = {name: asdict(known) for name, known in self._known.items()}
        write_text(self._run.path / STATE, json.dumps(state, indent=1) + "\n")

    def _give(self, followed: _Followed) -> None:
        for scalars, step in self._given[followed.lines :]:
            followed.tracker.log(scalars, step)
            followed.lines += 1

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a tracker's library may raise anything
            self._followed.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._warn(f"tracker {name}: {reason}; the run goes on without it")


def _in_order(history: Mapping[str, Sequence[Line]]) -> list[tuple[str, Line]]:
    steps = [(METRICS, line) for line in history.get(METRICS, ())]
    rounds = [(ROUNDS, line) for line in history.get(ROUNDS, ())]
    return sorted([*steps, *rounds], key=lambda pair: (pair[1]["round"], pair[0] == ROUNDS))


def _read_state(file: Path) -> dict[str, _State]:
    try:
        return {name: _State(**state) for name, state in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # a new run, or nothing that can be gone on with
