"""Stages one after the other, each in a process of its own that is measured; what is done is not done again.

A stage's record is in stages/NAME.json: seconds of all its processes so far and their peak resident memory, written
every few seconds, so that a kill loses little of them; and whether it is done. A stage that was killed is started again
and goes on where it was, which is its own affair.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from aslfast.cli.progress import clock
from aslfast.errors import UserError
from aslfast.files import lock
from aslfast.files.atomic import write_text

GUESSED_TOKENS_PER_S = 700.0  # until a stage has run the model here
RECORD_EVERY_S, POLL_S = 5.0, 0.05
LOCK_WAIT_S = 20.0  # a killed run's last process may need some seconds to end
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
STOPPED = 130


@dataclass(frozen=True)
class Stage:
    """One piece of work. tokens: forward passes of the model, about; seconds: of the rest, about.

    learns: most of its tokens have a backward pass, so its pace is that of other such stages.
    """

    name: str
    title: str
    run: Callable[[], None]
    tokens: float = 0.0
    seconds: float = 0.0
    learns: bool = False


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What a stage took so far, in all its processes."""

    seconds: float = 0.0
    peak_bytes: int = 0  # resident, of the process
    attempts: int = 0
    done: bool = False


def read_record(folder: Path, name: str) -> StageRecord:
    """Return a stage's record; an empty one where there is none."""
    file = folder / f"{name}.json"
    return StageRecord(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else StageRecord()


def run_stages(stages: Sequence[Stage], folder: Path) -> None:
    """Run what is not done, in order. Raise UserError where a stage fails, KeyboardInterrupt where it is stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        _hold(folder / "run.lock", opened)
        for number, stage in enumerate(stages, 1):
            record = read_record(folder, stage.name)
            if record.done:
                continue
            _say(f"{number}/{len(stages)} {stage.title}; {time_left(stages, folder)}")
            _run(stage, folder, record)


def time_left(stages: Sequence[Stage], folder: Path) -> str:
    """Return the time that all stages that are not done may take, at the pace of those of their kind that are."""
    records = {stage.name: read_record(folder, stage.name) for stage in stages}
    done = [stage for stage in stages if records[stage.name].done and stage.tokens]

    def rate(learns: bool) -> float:
        own = [stage for stage in done if stage.learns == learns] or done
        seconds = sum(records[stage.name].seconds for stage in own)
        return sum(stage.tokens for stage in own) / seconds if seconds else GUESSED_TOKENS_PER_S

    left = sum(
        max(0.0, stage.seconds + stage.tokens / rate(stage.learns) - records[stage.name].seconds)
        for stage in stages
        if not records[stage.name].done
    )
    return f"about {clock(left)} left of everything" + ("" if done else " (a guess until the model has run)")


def _run(stage: Stage, folder: Path, before: StageRecord) -> None:
    """Run a stage in a process, and record it. Raise UserError, KeyboardInterrupt."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if not child:
        os._exit(_in_child(stage, parent))
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the child's to answer
    try:
        code, record = _watch(child, folder / f"{stage.name}.json", before)
    finally:
        signal.signal(signal.SIGINT, answer)
    if code == STOPPED:
        raise KeyboardInterrupt("stopped; repeat the command to go on")
    if code:
        reason = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise UserError(f"{stage.name}: {reason}; see the lines above, then repeat the command to go on")
    _say(f"{stage.title}: done in {clock(record.seconds)}, at most {record.peak_bytes / 1e9:.1f} GB")


def _watch(child: int, file: Path, before: StageRecord) -> tuple[int, StageRecord]:
    """Wait for a process and keep its record; return its exit code and the last record."""
    started, next_record = time.monotonic(), 0.0  # at once: a kill does not undo the attempt
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        took = time.monotonic() - started
        if ended or took > next_record:
            next_record = took + RECORD_EVERY_S
            peak = usage.ru_maxrss * 1024 if ended else _peak_bytes(child)
            code = os.waitstatus_to_exitcode(status) if ended else 1
            record = StageRecord(before.seconds + took, max(before.peak_bytes, peak), before.attempts + 1, not code)
            write_text(file, json.dumps(asdict(record)) + "\n")
            if ended:
                return code, record
        time.sleep(POLL_S)


def _in_child(stage: Stage, parent: int) -> int:
    """Do the work; return the exit code. The process dies with its parent, however that ends."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            return 1
        stage.run()
        return 0
    except UserError as error:
        print(f"real: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _peak_bytes(process: int) -> int:
    """Return the peak resident memory of a process, 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _hold(file: Path, opened: ExitStack) -> None:
    """Take the folder's lock, which a stage's process shares until it has ended. Raise UserError."""
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            opened.enter_context(lock.hold(file, f"{file.parent}: another process works in this folder; wait for it"))
            return
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


def _say(line: str) -> None:
    print(f"real: {line}", file=sys.stderr, flush=True)
