"""`aslfast rollout`: a model plays a role over a file of questions. What it shares with `aslfast eval` stands first."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, printable, quiet_libraries
from aslfast.config import RunConfig
from aslfast.core import ROLES, Role, Task, Trajectory
from aslfast.data.qa_dataset import Question, read_questions
from aslfast.data.trajectories import Record, conversation, write_trajectories
from aslfast.errors import UserError
from aslfast.prompts import role_tasks as roles
from aslfast.retrieval.retriever import open_index
from aslfast.trainer.datasets import policy_evals
from aslfast.trainer.session import Session, open_session, settings_of

SAMPLER_KEYS = ("temperature", "max_turns", "max_new_tokens", "max_context")
PROMPT_SETS = ("compact", "full")


def known_role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise UserError(f"--role {role}: no such role; use one of {', '.join(ROLES)}")


def open_all(
    target: str, role: Role, data: Path, index: str, limit: int | None, settings: Mapping[str, Any]
) -> tuple[Session, list[Question]]:
    """The checkpoint with its search tool, and the questions: the cheap checks first. Raises UserError."""
    quiet_libraries()
    config = with_settings(target, settings)
    questions = read_questions(data, limit)
    opened = open_index(index, config.tool.timeout_s, config.tool.retries)
    return open_session(target, config, opened, role), questions


def with_settings(target: str, settings: Mapping[str, Any]) -> RunConfig:
    """The target's own settings, overridden by the options that were given."""
    given = {name: value for name, value in settings.items() if value is not None}
    if given.get("prompts", "full") not in PROMPT_SETS:
        raise UserError(f"--prompts {given['prompts']}: no such prompt set; use one of {', '.join(PROMPT_SETS)}")
    config = settings_of(target, given.get("prompts"))
    sampler = replace(config.sampler, **{name: given[name] for name in SAMPLER_KEYS if name in given})
    tool = replace(config.tool, top_k=given.get("top_k", config.tool.top_k))
    own = {name: given.get(name, getattr(config, name)) for name in ("seed", "threads")}
    return replace(config, sampler=sampler, tool=tool, **own)


def play(opened: Session, tasks: Sequence[Task], title: str, quiet: bool) -> tuple[list[Trajectory], dict[str, float]]:
    started = time.perf_counter()
    with Meter(title, len(tasks), "trajectories", quiet) as meter:
        trajectories = opened.play(tasks, lambda trajectory: meter.advance(1, trajectory.n_sampled))
    seconds = time.perf_counter() - started
    n_sampled = sum(t.n_sampled for t in trajectories)
    return trajectories, {"sampled_tokens": n_sampled, "tokens_per_s": n_sampled / seconds, "seconds": seconds}


def counts(stops: Mapping[str, int]) -> str:
    return ", ".join(f"{stop} {count}" for stop, count in sorted(stops.items(), key=lambda item: -item[1]))


# --- rollout ---------------------------------------------------------------------------------------------------


def role_tasks(role: str, questions: Sequence[Question], prompts: str) -> list[Task]:
    if role == "policy":
        return policy_evals(questions, prompts)
    if role == "grm":
        return [roles.grm_task(f"grm-{q.id}", q.question, q.answers[0], prompts, hops=q.hops) for q in questions]
    return [roles.generator_task(f"generator-{q.id}", q.question, max(q.hops, 1), prompts) for q in questions]


def check_new_file(out: Path) -> None:
    """Raises UserError where the file exists or its folder cannot be written, before any work is done."""
    if out.exists():
        raise UserError(f"{out}: already exists; choose another --out or remove it")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out}: the folder {out.parent} cannot be written; choose another --out")


def roll_out(
    opened: Session, role: str, questions: Sequence[Question], out: Path, quiet: bool
) -> tuple[list[Trajectory], dict[str, Any]]:
    """Plays the role and writes its trajectories to `out`, complete or not at all. Raises UserError."""
    trajectories, speed = play(opened, role_tasks(role, questions, opened.config.model.prompts), "rollout", quiet)
    try:
        write_trajectories(out, [Record(trajectory) for trajectory in trajectories])
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); free the space or choose another --out"
        ) from error
    stops = dict(Counter(t.stop.value for t in trajectories))
    return trajectories, {
        "out": str(out), "role": role, "trajectories": len(trajectories), "stops": stops,
        "searches": sum(t.tool_calls for t in trajectories) / len(trajectories), **speed,
    }  # fmt: skip


def print_rollout(trajectories: Sequence[Trajectory], summary: Mapping[str, Any]) -> None:
    """The first conversation as a person reads it, then one line about all."""
    first = trajectories[0]
    print(printable(f"{conversation(first)}\n=== {first.stop.value}: {first.output or 'no output'} ===\n"))
    print(
        f"{summary['out']}: {summary['trajectories']} trajectories ({counts(summary['stops'])}), "
        f"{summary['searches']:.2f} searches each, {summary['sampled_tokens']:,} tokens "
        f"sampled at {summary['tokens_per_s']:,.0f} tokens/s"
    )
