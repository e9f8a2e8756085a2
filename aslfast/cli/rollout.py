"""The work of `aslfast rollout`: a model plays a role on a file of questions. `aslfast eval` uses the first half."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, printable, quiet_libraries
from aslfast.config import RunConfig
from aslfast.config.bounds import check_option
from aslfast.config.roles import EVALUATED, ROLES
from aslfast.core import Question, Task, Trajectory
from aslfast.data.qa_dataset import read_questions
from aslfast.data.trajectories import Record, conversation, write_trajectories
from aslfast.errors import UserError
from aslfast.prompts.builder import SECOND_JUDGE, PromptBuilder
from aslfast.prompts.templates import check_prompt_set, fill, one_line
from aslfast.retrieval.retriever import open_index
from aslfast.trainer.datasets import policy_evals
from aslfast.trainer.session import Session, open_session, settings_of
from aslfast.trainer.sft.rejection import KEEP, kept_records

ROLE_KEYS = ("temperature", "max_turns", "max_new_tokens")  # of the sampler; a role may have its own
SAMPLER_KEYS = (*ROLE_KEYS, "max_context")


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """The questions to play, and the index to search."""

    data: Path
    index: str  # folder or URL
    limit: int | None = None  # take the first so many questions


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings of the command line, which replace those of a run or recipe; None: as they are there."""

    prompts: str | None = None
    seed: int | None = None
    threads: int | None = None
    temperature: float | None = None
    max_turns: int | None = None
    max_new_tokens: int | None = None
    max_context: int | None = None
    top_k: int | None = None


def known_role(role: str, roles: Collection[str]) -> str:
    """Return the name of a role, if it is one of these. Raise UserError."""
    if role not in roles:
        raise UserError(f"--role {role}: no such role; use one of {', '.join(roles)}")
    return role


def open_all(target: str, role: str, source: QuestionSource, overrides: Overrides) -> tuple[Session, list[Question]]:
    """Return the target with its search tool, and the questions; cheap checks come first. Raise UserError."""
    quiet_libraries()
    config = overridden(target, overrides)
    known_role(role, config.all_roles)
    questions = read_questions(source.data, source.limit)
    index = open_index(source.index, config.tool.timeout_s, config.tool.retries)
    return open_session(target, config, index, role), questions


def overridden(target: str, overrides: Overrides) -> RunConfig:
    """Return the target's own configuration with the overrides in it. Raise UserError."""
    prompts = overrides.prompts
    if prompts is not None:
        check_prompt_set(prompts, "--prompts")
    config = settings_of(target, prompts)

    def given(table: object, keys: Sequence[str]) -> dict[str, Any]:
        values = {key: getattr(overrides, key) for key in keys}
        for key, value in values.items():
            if value is not None:
                check_option(f"--{key.replace('_', '-')}", table, key, value)
        return {key: getattr(table, key) if value is None else value for key, value in values.items()}

    sampler = replace(config.sampler, **given(config.sampler, SAMPLER_KEYS))
    tool = replace(config.tool, **given(config.tool, ["top_k"]))
    settled = {key: 0 for key in ROLE_KEYS if getattr(overrides, key) is not None}  # a role's own give way too
    roles = {name: replace(role, **settled) for name, role in config.roles.items()}
    return replace(config, sampler=sampler, tool=tool, roles=roles, **given(config, ["seed", "threads"]))


def play(session: Session, tasks: Sequence[Task], title: str, quiet: bool) -> tuple[list[Trajectory], dict[str, float]]:
    """Return one trajectory of each task, in order, and the speed of sampling them."""
    started = time.perf_counter()
    with Meter(title, len(tasks), "trajectories", quiet) as meter:
        trajectories = session.play(tasks, lambda trajectory: meter.advance(1, trajectory.n_sampled))
    seconds = time.perf_counter() - started
    n_sampled = sum(t.n_sampled for t in trajectories)
    return trajectories, {"sampled_tokens": n_sampled, "tokens_per_s": n_sampled / seconds, "seconds": seconds}


def stop_counts(stops: Mapping[str, int]) -> str:
    """Return the counts of stop reasons as text, the most frequent first."""
    return ", ".join(f"{stop} {count}" for stop, count in sorted(stops.items(), key=lambda item: -item[1]))


# --- rollout ---------------------------------------------------------------------------------------------------


def tasks_of(role: str, questions: Sequence[Question], config: RunConfig) -> list[Task]:
    """Return a task of the role for each question: to answer it, judge its first answer, take it as a topic, or, for a
    role of one's own, what roles.NAME.prompt makes of it. Raise UserError.
    """
    prompts = config.model.prompts
    if role == EVALUATED:
        return policy_evals(questions, prompts)
    if config.all_roles[role].prompt or role not in (*ROLES, SECOND_JUDGE):
        return [_own_task(role, question, config.all_roles[role].prompt) for question in questions]
    builder = PromptBuilder(prompts)
    if role != "generator":
        fold = 2 if role == SECOND_JUDGE else 0
        return [builder.judge(f"{role}-{q.id}", q, q.reference, fold=fold) for q in questions]
    return [builder.generator(f"generator-{q.id}", q.text, max(q.hops, 1)) for q in questions]


def _own_task(role: str, question: Question, prompt: str) -> Task:
    """Return the task of a role of one's own: a question fills the gap of its prompt, and its answer {answer}."""
    gaps = dict.fromkeys(re.findall(r"\{(\w+)\}", prompt))
    asked = [gap for gap in gaps if gap != "answer"]
    if len(asked) > 1 or not gaps:
        what = f"a question fills one gap, and {{answer}}; roles.{role}.prompt has {', '.join(asked) or 'none'}"
        raise UserError(f"--role {role}: {what}; its phase alone knows what to ask")
    filled = fill(prompt, **dict.fromkeys(asked, one_line(question.text)), answer=one_line(question.reference))
    return Task(f"{role}-{question.id}", role, filled, question.text, question.references, question.hops)


def check_new_file(out: Path) -> None:
    """Raise UserError where the file exists or its folder cannot be written, before any work is done."""
    if out.exists():
        raise UserError(f"{out}: already exists; choose another --out or remove it")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out}: the folder {out.parent} cannot be written; choose another --out")


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """How many trajectories a question gets, and which of them is written: all, or the "best" or a "correct" one."""

    samples: int = 1
    keep: str | None = None

    def check(self, role: str) -> None:
        """Raise UserError for a choice that does not exist, or that no reward can make."""
        if self.keep not in (None, *KEEP):
            raise UserError(f"--keep {self.keep}: no such choice; use one of {', '.join(KEEP)}")
        if self.keep and role != "policy":
            raise UserError(f"--keep {self.keep}: only answers of the policy can be compared with the data's")


def samples_of(tasks: Sequence[Task], samples: int) -> list[Task]:
    """Return each task so many times in a row; the copies have ids, and so seeds, of their own."""
    return [replace(task, id=f"{task.id}.{n}") if n else task for task in tasks for n in range(samples)]


def write_records(out: Path, records: Sequence[Record]) -> None:
    """Write trajectories, complete or not at all. Raise UserError."""
    try:
        write_trajectories(out, records)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise UserError(f"{out}: {reason}; free the space or choose another --out") from error


# one parameter a thing that the command names
def roll_out(
    session: Session, role: str, questions: Sequence[Question], out: Path, choice: SampleChoice, quiet: bool
) -> tuple[list[Trajectory], dict[str, Any]]:
    """Play the role, write its trajectories to `out`; return all of them and a summary. Raise UserError."""
    tasks = samples_of(tasks_of(role, questions, session.config), choice.samples)
    trajectories, speed = play(session, tasks, "rollout", quiet)
    records, kept = [Record(trajectory) for trajectory in trajectories], {}
    if choice.keep:
        records = list(kept_records(trajectories, choice.samples, choice.keep))
        kept = {"keep": choice.keep, "questions": len(questions), "kept": len(records)}
        if not records:
            reason = f"no trajectory passes --keep {choice.keep}"
            raise UserError(f"{out}: not written: {reason}; raise --samples, or use another model")
    write_records(out, records)
    stops = dict(Counter(t.stop.value for t in trajectories))
    return trajectories, {
        "out": str(out), "role": role, "trajectories": len(trajectories), "stops": stops,
        "searches": sum(t.tool_calls for t in trajectories) / len(trajectories), **speed, **kept,
    }  # fmt: skip


def print_rollout(trajectories: Sequence[Trajectory], summary: Mapping[str, Any]) -> None:
    """Print the first conversation in readable form, then one line about all."""
    first = trajectories[0]
    print(printable(f"{conversation(first)}\n=== {first.stop.value}: {first.output or 'no output'} ===\n"))
    print(
        f"{summary['out']}: {summary['trajectories']} trajectories ({stop_counts(summary['stops'])}), "
        f"{summary['searches']:.2f} searches each, {summary['sampled_tokens']:,} tokens "
        f"sampled at {summary['tokens_per_s']:,.0f} tokens/s"
    )
    if "kept" in summary:
        print(f"kept the {summary['keep']} trajectory of {summary['kept']} of {summary['questions']} questions")
