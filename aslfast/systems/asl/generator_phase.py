"""The generator's phase: questions about topics or after old ones, and what the policy and the judge make of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from aslfast import rewards
from aslfast.checkpoint.state import TrainState
from aslfast.config.schedules.table import by_round
from aslfast.core import Attempt, Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.rewards import AnswerEvidence, QuestionEvidence
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.schedule import chunks
from aslfast.rounds.task_context import TaskContext
from aslfast.systems.asl.judge import judge_of, other_fold, prompts_of, source_fold
from aslfast.systems.asl.policy_phase import Verdicts, play_attempt

T = TypeVar("T")


def generator_tasks(context: TaskContext) -> list[list[Task]]:
    """Return the phase's tasks by step: about topics, or variants of questions that the policy has trained on.

    The round's `generator.source` decides; without such questions it is topics.
    """
    config, state = context.config.generator, context.state
    kind = by_round(config.source, state.round)
    old = [question for key, question in state.pool.items() if key in state.accuracy]
    tasks = topic_tasks(context) if kind == "topic" or not old else variant_tasks(context, kind, old)
    return chunks(tasks, config.prompts_per_step)


def topic_tasks(context: TaskContext) -> list[Task]:
    """Return tasks about topics drawn without repeats; hops in turn, so that the question pool holds all of them."""
    hops, number = context.config.generator.hops, context.state.round
    return [
        prompts_of(context.config).generator(f"g{number}-{i}", topic, hops[i % len(hops)])
        for i, topic in enumerate(_drawn(context, context.data.topics))
    ]


def variant_tasks(context: TaskContext, kind: Literal["width", "depth"], old: Sequence[Question]) -> list[Task]:
    """Return tasks of harder or easier variants, by the policy's accuracy on the old question in its newest phase."""
    state, max_hops = context.state, max(context.config.generator.hops)
    return [
        prompts_of(context.config).variant(
            f"g{state.round}-{i}", question, state.accuracy[rewards.normalize(question.text)], kind, max_hops
        )
        for i, question in enumerate(_drawn(context, old))
    ]


def _drawn(context: TaskContext, things: Sequence[T]) -> list[T]:
    """Return one thing for each of the phase's tasks, without repeats as long as there are enough."""
    config, rng = context.config.generator, context.rng("generator")
    count = config.steps * config.prompts_per_step
    laps = count // len(things) + 1
    return [thing for _ in range(laps) for thing in rng.sample(list(things), len(things))][:count]


def target_reached(state: TrainState, targets: Sequence[int]) -> bool:
    """Return whether the round has written as many new questions as the recipe wants of it (ASL: 2000 to 30000)."""
    wanted = by_round(targets, state.round)
    return wanted > 0 and sum(question.round == state.round for question in state.pool.values()) >= wanted


def drop_near_duplicates(state: TrainState) -> None:
    """Keep, of questions in nearly the same words, the one that came first."""
    kept = set(rewards.distinct_questions([q.text for q in state.pool.values()]))
    state.pool = {key: question for i, (key, question) in enumerate(state.pool.items()) if i in kept}


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """A generator's trajectory and what came of its question.

    evidence: what its reward is made from; None where the tool failed the question, all of its attempts or all of its
    self checks, so that it has no reward. accepted: the question for the pool, where it passed the acceptance filter.
    """

    written: Trajectory
    evidence: QuestionEvidence | None = None
    accepted: Question | None = None


async def question_group(context: RolloutContext, task: Task) -> GroupResult:
    """Play one task: several questions; those that pass the acceptance filter are new questions of the pool."""
    size = context.config.generator.group_size
    outcomes = await asyncio.gather(*(generate_question(context, task, i) for i in range(size)))
    batch = tuple(outcome.evidence.question for outcome in outcomes if outcome.evidence)
    group = Group.of([(outcome.written, _reward(context, outcome, batch)) for outcome in outcomes])
    accepted = [outcome.accepted for outcome in outcomes if outcome.accepted]
    return GroupResult((group,), context.counters, accepted)


def _reward(context: RolloutContext, outcome: QuestionOutcome, batch: tuple[str, ...]) -> Reward | None:
    if outcome.evidence is None:
        return None
    evidence, config = replace(outcome.evidence, batch=batch), context.config
    return rewards.generator_reward(outcome.written, evidence, config.format_weight, config.generator.reward)


async def generate_question(context: RolloutContext, task: Task, number: int) -> QuestionOutcome:
    """Play one generator trajectory, the policy's attempts at its question, and the judge's checks of its answer."""
    config = context.config.generator
    written = await context.sample(task, number)
    if written.stop is StopReason.TOOL_FAILED:
        return QuestionOutcome(written)
    evidence = rewards.question_evidence(written)
    if not evidence.valid or written.output is None or written.output_answer is None:
        return QuestionOutcome(written, evidence)
    attempts, self_verdicts = await _attempts(context, written, f"{task.id}-{number}")
    if not attempts or (config.self_checks and not self_verdicts):
        return QuestionOutcome(written)
    reference = rewards.reference_source(config.reference)([a.answer for a in attempts], written.output_answer)
    verdicts = [_verdict(context, attempt, reference) for attempt in attempts]
    evidence = rewards.question_evidence(written, verdicts, self_verdicts, config.min_acceptance)
    evidence = replace(evidence, accepted=evidence.passed and rewards.question_filter(config.accept)(evidence))
    lowest, highest = config.pass_rate_range
    if not evidence.accepted or not lowest <= rewards.accuracy(verdicts) <= highest:
        return QuestionOutcome(written, evidence)
    question = Question(
        f"q{task.id}-{number}", written.output, (reference,), task.hops, source_fold(written, context.config.grm.folds),
        context.round, tuple(attempt for attempt in attempts if attempt.answer is not None),
    )  # fmt: skip
    return QuestionOutcome(written, evidence, question)


async def _attempts(context: RolloutContext, written: Trajectory, name: str) -> tuple[list[Attempt], Verdicts]:
    """Return the attempts that the tool did not fail, and the verdicts on the generator's own answer.

    Of an attempt's tokens, which no role learns from, nothing is kept.
    """
    config, own = context.config, written.output_answer or ""
    fold, judge = source_fold(written, config.grm.folds), judge_of(context)
    question = Question(name, written.output or "", (own,), written.task.hops, fold)
    task = prompts_of(context.config).policy(f"{name}-p", question)
    check = prompts_of(context.config).judge(f"{name}-c", question, own, fold=other_fold(fold))
    count = min(1, config.policy.verdicts_per_answer)

    async def attempt(number: int) -> Attempt | None:
        trajectory, verdicts = await play_attempt(context, task, number, count)
        return None if verdicts is None else Attempt(trajectory.output, verdicts)

    attempts, checks = await asyncio.gather(
        asyncio.gather(*(attempt(i) for i in range(config.generator.rollouts_per_question))),
        asyncio.gather(*(context.sample(check, i) for i in range(config.generator.self_checks))),
    )
    return [a for a in attempts if a], judge.read(checks)


def _verdict(context: RolloutContext, attempt: Attempt, reference: str) -> str | None:
    """Return the judge's verdict on an attempt; without a judge, that of the rule that rewards the policy."""
    if attempt.verdicts:
        return attempt.verdicts[0]
    rule = rewards.policy_rule(context.config.policy.reward)
    return "correct" if rule(AnswerEvidence(attempt.answer, (), (reference,))) > 0.5 else "wrong"
