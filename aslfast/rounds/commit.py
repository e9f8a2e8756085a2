"""What of a loop is committed, and when: its start, every step, every phase, every round; and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aslfast.checkpoint.recovery import STEPS
from aslfast.data.trajectories import Record, join_trajectories, write_trajectories
from aslfast.learner.optimizer_state import load_learner, save_learner
from aslfast.models import lora
from aslfast.rounds.context import Loop
from aslfast.rounds.replicas import rank_zero_only


def begun(loop: Loop, facts: Mapping[str, dict[str, str]], given: Sequence[str] = ()) -> None:
    """The adapters as they start: a resume takes them from here, not from a random seed or another folder.

    given: roles whose version 0 is an adapter of another run, and not the base as it is for the others.
    """
    with loop.run.writing():
        made = [save_learner(loop.learner, role, _learner_file(loop, role)) for role in loop.learner.version]
        made += [lora.save_adapter(loop.learner.model, role, _adapters(loop, role), 0) for role in given]
    loop.run.commit("begun", loop, made, facts=facts)


def take_up(loop: Loop) -> None:
    """The loop and its learner as they were at the last commit."""
    loop.run.restore(loop)
    for role in loop.learner.version:
        for name in _learner_files(loop, role):
            load_learner(loop.learner, role, loop.run.path / name)


@rank_zero_only
def step(loop: Loop, role: str, records: Sequence[Record], line: dict[str, Any]) -> None:
    """The step's trajectories, its line and, if the role's adapter moved, the learner's state in place of the last."""
    part, state = _part(loop, role, loop.phase_step), _learner_file(loop, role)
    made, dropped = [part], []
    with loop.run.writing():
        part.parent.mkdir(exist_ok=True)
        write_trajectories(part, records)
        if _name(loop, state) not in loop.run.files:
            dropped = _learner_files(loop, role)
            made.append(save_learner(loop.learner, role, state))
    loop.clock()
    loop.run.commit("step", loop, made, dropped, {"metrics.jsonl": line})


@rank_zero_only
def phase(loop: Loop, role: str, steps: int, learned: bool) -> None:
    """One file of the phase's trajectories in place of one a step, and the adapter that the phase ends with."""
    parts = [_part(loop, role, number) for number in range(1, steps + 1)]
    whole = loop.run.path / "trajectories" / f"round-{loop.round:03d}-{role}.parquet"
    made = [whole]
    with loop.run.writing():
        whole.parent.mkdir(exist_ok=True)
        join_trajectories(whole, parts)
        if learned and parts:
            made.append(lora.save_adapter(loop.learner.model, role, _adapters(loop, role), loop.learner.version[role]))
    loop.clock()
    loop.run.commit("phase", loop, made, [_name(loop, part) for part in parts])


@rank_zero_only
def measured(loop: Loop, line: dict[str, Any], last: bool) -> None:
    """A round's line. After the `last` one nothing is learnt any more: the learner's state goes."""
    dropped = [name for role in loop.learner.version for name in _learner_files(loop, role)] if last else []
    loop.run.commit("round", loop, (), dropped, {"rounds.jsonl": line})


def _adapters(loop: Loop, role: str) -> Path:
    return loop.run.path / "adapters" / role


def _part(loop: Loop, role: str, number: int) -> Path:
    return loop.run.path / STEPS / f"round-{loop.round:03d}-{role}-{number:05d}.parquet"


def _learner_file(loop: Loop, role: str) -> Path:
    return loop.run.path / STEPS / f"{role}-v{loop.learner.version[role]:05d}.safetensors"


def _learner_files(loop: Loop, role: str) -> list[str]:
    """The committed one; none after the last round."""
    return [name for name in loop.run.files if name.startswith(f"{STEPS}/{role}-v")]


def _name(loop: Loop, path: Path) -> str:
    return path.relative_to(loop.run.path).as_posix()
