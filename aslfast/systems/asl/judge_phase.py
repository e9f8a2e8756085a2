"""The judge's phase: labelled answers to this round's questions, and to real ones where a recipe injects them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from aslfast import rewards
from aslfast.core import Group, Question, Reward, Task, Trajectory
from aslfast.rollout.context import RolloutContext
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.schedule import chunks, cycled
from aslfast.rounds.task_context import TaskContext
from aslfast.systems.asl.judge import judge_of, prompts_of


def verification_tasks(context: TaskContext, fold: int = 0) -> list[list[Task]]:
    """Return the phase's tasks by step: this round's labelled attempts, as many right as wrong for each question.

    In random order, repeated as needed. From `grm.gold_label_from_round` on a fraction of them is made from real
    questions instead (ASL's late injection). fold: of the judge that learns, on the questions of its half of the
    source documents; 0: there is one judge.
    """
    config, state, rng = context.config.grm, context.state, context.rng(f"grm{fold}" if fold else "grm")
    own = [q for q in state.pool.values() if q.round == state.round and q.fold == fold]
    tasks = [task for question in own for task in _question_tasks(context, question)]
    rng.shuffle(tasks)
    wanted = config.steps * config.prompts_per_step
    injected = state.round >= config.gold_label_from_round
    gold = gold_tasks(context, round(config.gold_label_fraction * wanted), fold, rng) if injected else []
    steps = cycled(tasks, config.steps, config.prompts_per_step)
    if not gold:
        return steps
    mixed = gold + [task for step in steps for task in step][: wanted - len(gold)]
    rng.shuffle(mixed)
    return chunks(mixed, config.prompts_per_step)


def _question_tasks(context: TaskContext, question: Question) -> list[Task]:
    labelled = rewards.balanced(labelled_attempts(question, context.config.grm.label))
    return [
        prompts_of(context.config).judge(
            f"v{context.state.round}-{question.id}-{i // 2}{label[0]}", question, answer, label, question.fold
        )
        for i, (answer, label) in enumerate(labelled)
    ]


def gold_tasks(context: TaskContext, count: int, fold: int, rng: random.Random) -> list[Task]:
    """Return `count` answers to labelled questions, right ones and plausible wrong ones in turn."""
    tasks: list[Task] = []
    labelled = list(context.data.real_questions)
    others = [(q.text, q.reference) for q in labelled]
    while labelled and len(tasks) < count:
        for question in rng.sample(labelled, len(labelled)):
            name = f"r{context.state.round}.{len(tasks)}"
            tasks += _right_and_wrong(context, question, others, name, fold, rng)
    return tasks[:count]


def _right_and_wrong(
    context: TaskContext, question: Question, others: Sequence[tuple[str, str]], name: str, fold: int,
    rng: random.Random,
) -> list[Task]:  # fmt: skip
    wrong = rewards.plausible_wrong(question.text, question.references, others, rng)
    given = [(question.reference, "correct"), *([(wrong, "wrong")] if wrong else [])]
    prompts = prompts_of(context.config)
    return [prompts.judge(f"{name}-{label[0]}", question, answer, label, fold) for answer, label in given]


def labelled_attempts(question: Question, source: str) -> dict[str, str]:
    """Return distinct answers -> label, from one of the sources in rewards/labels.py."""
    return rewards.label_source(source)(question.attempts, question.reference)


async def verdict_group(context: RolloutContext, task: Task) -> GroupResult:
    """Play one task: several judgements of one labelled answer."""
    judged = await asyncio.gather(*(context.sample(task, i) for i in range(context.config.grm.group_size)))
    config, weight = context.config.grm, context.config.format_weight

    def reward(trajectory: Trajectory) -> Reward | None:
        heard = judge_of(context).read([trajectory])
        label = task.references[0]
        return rewards.grm_reward(trajectory, label, weight, config.variant, config.reward) if heard else None

    given = [reward(trajectory) for trajectory in judged]
    return GroupResult((Group.of(list(zip(judged, given, strict=True))),), context.counters)
