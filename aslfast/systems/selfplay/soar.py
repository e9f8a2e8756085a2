"""SOAR: a teacher is paid by how much a throw-away student gains on hard questions from what the teacher wrote.

Source: arXiv 2601.18778v3; no code found. Both learn by RLOO, by settings: the teacher's advantages are taken among all
items of a step (`advantage.group_by = "role"`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from aslfast.errors import UserError
from aslfast.filters import Check, filtered
from aslfast.phase import (
    Control,
    Group,
    OwnPhase,
    Play,
    Played,
    Question,
    Reward,
    RewardOf,
    RunConfig,
    Task,
    TaskContext,
    Trajectory,
)
from aslfast.rewards import contains_match, exact_match
from aslfast.rollout.multi_turn import stable_seed

TEACHER, BASELINE, CANDIDATE, STUDENT = "generator", "policy", "candidate", "student"  # roles; students end in a number
GREEDY = 0.01  # temperature of evaluations: what a run may sample at is above 0
MORE_STEPS = 5  # of the inner training, with each promotion
WINDOW = 3  # steps over which the teacher's reward is averaged before a promotion


def student_reward(act: Trajectory) -> float:
    """Return 120 for the right answer; for another one 20 where the right one was said, else 10; 0 for none.

    Source: the paper, with an answer in its tag in place of a boxed one.
    """
    references = act.task.references
    if exact_match(act.output, references):
        return 120.0
    said = any(contains_match(turn.text, references) for turn in act.turns if turn.kind == "sampled")
    return 20.0 if said else 10.0 * (act.output is not None)


def set_reward(accuracies: Sequence[float], baseline: float) -> float:
    """Return R, the mean over the students of a set of Acc(student) - Acc(baseline): what each of its items earns."""
    return fmean(accuracies) - baseline


def median_student(accuracies: Sequence[float]) -> int:
    """Return which student has the median accuracy, of two the lower, of equal ones the first."""
    order = sorted(range(len(accuracies)), key=lambda i: accuracies[i])
    return order[(len(order) - 1) // 2]


@dataclass(frozen=True)
class SOAROptions:
    """The paper's values."""

    hard_tries: int = 128  # all of which must fail for a question to be hard
    asked: int = 64  # hard questions that a step measures on
    inner_steps: int = 10
    batch: int = 8
    answers: int = 32  # of a student to a question
    promote_above: float = 0.01


@dataclass
class TeachingState:
    """rewards: the teacher's, of the steps since the last promotion; stored: the sets that led to promotions."""

    hard: list[Question] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    promotions: int = 0
    stored: list[Question] = field(default_factory=list)


class SOAR(OwnPhase):
    """A task is a set of questions, a play one item of it. Between playing and learning each set is taught to students.

    The policy's adapter is the baseline student: promotions alone move it.
    """

    roles = (TEACHER, BASELINE)

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = TeachingState()
        self.students = sorted(name for name in config.roles if name.startswith(STUDENT))
        if not self.students or CANDIDATE not in config.roles:
            raise UserError(f"SOAR teaches roles named {STUDENT}_1, ... and keeps one as {CANDIDATE}; add their tables")
        self.options_as(SOAROptions)

    def tasks(self, context: TaskContext) -> list[str]:
        self._topics, self._labelled = context.data.topics, context.data.real_questions
        return [f"set {i}" for i in range(self.config.own_phase["SOAR"].tasks_per_step)]

    async def play(self, play: Play, task: Task) -> Played:
        topic = play.rng("topic").choice(self._topics)
        check = Check("well_formed", lambda _, act: bool(act.output and act.output_answer), "resample")
        found = await filtered(play, partial(play.act, TEACHER, topic=topic), [check])
        return (found.act,)

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing yet: what a set is worth is measured once the step's are all written."""
        return [[0.0 for _ in acts] for acts in plays]

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> list[Group]:
        """Return the sets with what they are worth; promote the best one's student where that has lasted."""
        if not self.state.hard:
            self.state.hard = await self._hard_ones(control)
        options, written = self.options_as(SOAROptions), [group for group in groups if group.trajectories]
        rng = random.Random(stable_seed(control.config.seed, control.state.step, "SOAR"))
        asked = rng.sample(self.state.hard, min(options.asked, len(self.state.hard)))
        baseline = await self._accuracy(control, BASELINE, asked)
        worth: list[float] = []
        for group in written:
            found = [await self._taught(control, name, group, asked) for name in self.students]
            worth.append(set_reward(found, baseline))
            if worth[-1] == max(worth) and worth.count(worth[-1]) == 1:
                control.copy(self.students[median_student(found)], CANDIDATE)
        self._promote(control, worth, written)
        return [_paid(group, reward) for group, reward in zip(written, worth, strict=True)]

    async def _hard_ones(self, control: Control) -> list[Question]:
        """Return the labelled questions that the policy never answers. Raise UserError where there are none."""
        played = await control.sample(BASELINE, self._labelled, n=self.options_as(SOAROptions).hard_tries)
        failed = [not any(exact_match(t.output, t.task.references) for t in samples) for samples in played]
        hard = [question for question, fails in zip(self._labelled, failed, strict=True) if fails]
        if not hard:
            raise UserError(f"SOAR: none of {len(failed)} labelled questions is hard; give it harder ones, or more")
        return hard

    async def _taught(self, control: Control, student: str, group: Group, asked: Sequence[Question]) -> float:
        """Teach a copy of the baseline the pairs of a set; return its accuracy on the hard questions."""
        options, pairs = self.options_as(SOAROptions), _pairs(group)
        control.copy(BASELINE, student)
        for step in range(options.inner_steps + MORE_STEPS * self.state.promotions):
            first = step * options.batch
            batch = [pairs[i % len(pairs)] for i in range(first, first + min(options.batch, len(pairs)))]
            played = await control.sample(student, batch, self._prompt(control), options.answers)
            control.learn(student, [_answered(samples) for samples in played])
        return await self._accuracy(control, student, asked)

    async def _accuracy(self, control: Control, role: str, asked: Sequence[Question]) -> float:
        return await control.trying("sampler.temperature", GREEDY).evaluate(role, asked, self._prompt(control))

    def _prompt(self, control: Control) -> str:
        """Return what all students are asked: what the policy is."""
        return control.config.roles[BASELINE].prompt

    def _promote(self, control: Control, worth: Sequence[float], written: Sequence[Group]) -> None:
        """Let the best set's student be the baseline, where the teacher's mean reward of three steps is high enough."""
        self.state.rewards = [*self.state.rewards, fmean(worth)][-WINDOW:]
        lasting = len(self.state.rewards) == WINDOW
        if lasting and fmean(self.state.rewards) > self.options_as(SOAROptions).promote_above:
            control.copy(CANDIDATE, BASELINE)
            self.state.stored += _pairs(written[worth.index(max(worth))])
            self.state.rewards, self.state.promotions = [], self.state.promotions + 1


def _pairs(group: Group) -> list[Question]:
    return [Question(t.task.id, t.output or "", (t.output_answer or "",)) for t in group.trajectories]


def _answered(samples: Sequence[Trajectory]) -> Group:
    return Group(tuple(samples), tuple(Reward({"answer": student_reward(t)}) for t in samples))


def _paid(group: Group, reward: float) -> Group:
    return Group(group.trajectories, tuple(Reward({"gain": reward}) for _ in group.trajectories), group.failed)
