"""The generator's phase: questions about topics or after old ones, what the policy and the judge make of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from aslfast import rewards
from aslfast.checkpoint.state import PoolQuestion
from aslfast.core import Group, Reward, StopReason, Task, Trajectory
from aslfast.prompts import role_tasks
from aslfast.rewards import AnswerEvidence, Attempt, QuestionEvidence
from aslfast.rollout.judge import other_fold, source_fold
from aslfast.rounds.context import Loop
from aslfast.rounds.policy_phase import Verdicts, attempt
from aslfast.rounds.schedule import by_round, chunks

T = TypeVar("T")


def generator_tasks(loop: Loop) -> list[list[Task]]:
    """About topics, or after questions that the policy has trained on, once there are any: by the round's source."""
    kind = by_round(loop.config.generator.source, loop.round)
    old = [question for key, question in loop.pool.items() if key in loop.solved]
    tasks = variant_tasks(loop, kind, old) if old and kind != "topic" else topic_tasks(loop)
    return chunks(tasks, loop.config.generator.prompts_per_step)


def topic_tasks(loop: Loop) -> list[Task]:
    """Topics drawn without repeats; the numbers of hops in turn, so that the pool holds all of them."""
    config, prompts = loop.config.generator, loop.config.model.prompts
    topics = _drawn(loop, loop.topics)
    return [
        role_tasks.generator_task(f"g{loop.round}-{i}", topic, config.hops[i % len(config.hops)], prompts)
        for i, topic in enumerate(topics)
    ]


def variant_tasks(loop: Loop, kind: Any, old: Sequence[PoolQuestion]) -> list[Task]:
    """Harder or easier ones, by the accuracy that the policy's newest phase had on the old one (ASL)."""
    prompts, most_hops = loop.config.model.prompts, max(loop.config.generator.hops)
    return [
        role_tasks.variant_task(
            f"g{loop.round}-{i}", role_tasks.policy_task("", q.question, prompts, (q.reference,), q.hops),
            loop.solved[rewards.normalize(q.question)], kind, prompts, most_hops,
        )
        for i, q in enumerate(_drawn(loop, old))
    ]  # fmt: skip


def _drawn(loop: Loop, things: Sequence[T]) -> list[T]:
    """One for each of the phase's tasks, without repeats as long as there are enough."""
    config, rng = loop.config.generator, loop.rng("generator")
    count = config.steps * config.prompts_per_step
    laps = count // len(things) + 1
    return [thing for _ in range(laps) for thing in rng.sample(list(things), len(things))][:count]


def enough_questions(loop: Loop) -> bool:
    """Whether the pool has as many new questions as the recipe wants of this round (ASL: 2000 to 30000)."""
    wanted = by_round(loop.config.generator.target_questions, loop.round)
    return wanted > 0 and sum(q.of_round(loop.round) for q in loop.pool.values()) >= wanted


async def question_group(loop: Loop, task: Task) -> Group:
    """Several questions for one task. Those that pass the gate enter the pool."""
    grown = await asyncio.gather(*(grow(loop, task, i) for i in range(loop.config.generator.group_size)))
    for _, question, _ in grown:
        if question is not None:
            loop.offer(task, question)
    batch = tuple(evidence.question for _, _, evidence in grown if evidence)
    return Group.of([(t, _generator_reward(loop, t, e, batch) if e else None) for t, _, e in grown])


def _generator_reward(loop: Loop, written: Trajectory, evidence: QuestionEvidence, batch: tuple[str, ...]) -> Reward:
    evidence = replace(evidence, batch=batch)
    return rewards.generator_reward(written, evidence, loop.config.format_weight, loop.config.generator.reward)


def drop_near_duplicates(loop: Loop) -> None:
    """Of questions in nearly the same words the pool keeps the one that came first."""
    kept = set(rewards.distinct_questions([q.question for q in loop.pool.values()]))
    loop.pool = {key: question for i, (key, question) in enumerate(loop.pool.items()) if i in kept}


async def grow(loop: Loop, task: Task, number: int) -> tuple[Trajectory, PoolQuestion | None, QuestionEvidence | None]:
    """A question, the policy's attempts at it with a verdict each, and the judge's view of its reference answer.

    No evidence where the tool failed the question, all of its attempts or all of its self checks.
    """
    config = loop.config.generator
    written = await loop.sample(task, number)
    if written.stop is StopReason.TOOL_FAILED:
        return written, None, None
    evidence = rewards.question_evidence(written)
    if not evidence.valid or written.output is None or written.output_answer is None:
        return written, None, evidence
    attempts, self_verdicts = await _tried(loop, written, f"{task.id}-{number}")
    if not attempts or (config.self_checks and not self_verdicts):
        return written, None, None
    reference = rewards.REFERENCES[config.reference]([a.answer for a in attempts], written.output_answer)
    verdicts = [_verdict(loop, attempt, reference) for attempt in attempts]
    evidence = rewards.question_evidence(written, verdicts, self_verdicts, config.min_acceptance)
    lowest, highest = config.pass_rate_range
    if not evidence.accepted or not lowest <= rewards.accuracy(verdicts) <= highest:
        return written, None, evidence
    tried = tuple(Attempt(a.answer, a.verdicts) for a in attempts if a.answer is not None)
    fold = source_fold(written, loop.config.grm.folds)
    question = PoolQuestion(f"q{task.id}-{number}", written.output, reference, task.hops, tried, fold)
    return written, question, evidence


@dataclass(frozen=True, slots=True)
class _Tried:
    """A policy's attempt. Its tokens, which nothing is learnt from, are let go at once."""

    answer: str | None
    verdicts: Verdicts  # none where a rule judges


async def _tried(loop: Loop, written: Trajectory, name: str) -> tuple[list[_Tried], Verdicts]:
    """The attempts that the tool did not fail, and the verdicts on the generator's own answer."""
    config, question, own = loop.config.generator, written.output or "", written.output_answer or ""
    fold = source_fold(written, loop.config.grm.folds)
    ask = role_tasks.policy_task(f"{name}-p", question, loop.config.model.prompts, (own,), written.task.hops, fold)
    check = loop.judging.task(f"{name}-c", question, own, own, fold=other_fold(fold))
    judgements = min(1, loop.config.policy.verdicts_per_answer)

    async def outcome(number: int) -> _Tried | None:
        trajectory, verdicts = await attempt(loop, ask, number, judgements)
        return None if verdicts is None else _Tried(trajectory.output, verdicts)

    attempts, checks = await asyncio.gather(
        asyncio.gather(*(outcome(i) for i in range(config.rollouts_per_question))),
        asyncio.gather(*(loop.sample(check, i) for i in range(config.self_checks))),
    )
    return [a for a in attempts if a], loop.judging.opinions(checks)


def _verdict(loop: Loop, attempt: _Tried, reference: str) -> str | None:
    """The judge's on an attempt; without a judge, that of the rule that pays the policy."""
    if attempt.verdicts:
        return attempt.verdicts[0]
    rule = rewards.POLICY_REWARDS[loop.config.policy.reward]
    return "correct" if rule(AnswerEvidence(attempt.answer, (), (reference,))) > 0.5 else "wrong"
