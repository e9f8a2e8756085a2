"""The judge's phase: labelled answers to this round's questions, and to real ones where a recipe injects them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from aslfast import rewards
from aslfast.checkpoint.state import PoolQuestion
from aslfast.core import Group, Task
from aslfast.data.qa_dataset import Question
from aslfast.rounds.context import Loop
from aslfast.rounds.schedule import chunks, cycled


def verification_tasks(loop: Loop, fold: int = 0) -> list[list[Task]]:
    """This round's labelled attempts, as many right as wrong for each question, in random order, repeated as needed.

    From `grm.gold_label_from_round` on a share of them is made from real questions instead (ASL's late injection).
    fold: of the judge that learns, on the questions of its half of the source documents; 0: there is one judge.
    """
    config, rng = loop.config.grm, loop.rng(f"grm{fold}" if fold else "grm")
    tasks: list[Task] = []
    for question in loop.pool.values():
        if question.of_round(loop.round) and question.fold == fold:
            for i, (answer, label) in enumerate(rewards.balanced(labelled_attempts(question, config.label))):
                task_id = f"v{loop.round}-{question.id}-{i // 2}{label[0]}"
                tasks.append(
                    loop.judging.task(
                        task_id, question.question, answer, question.reference, label, question.hops, fold
                    )
                )
    rng.shuffle(tasks)
    wanted = config.steps * config.prompts_per_step
    real = (
        real_tasks(loop, round(config.gold_label_fraction * wanted), fold, rng)
        if loop.round >= config.gold_label_from_round
        else []
    )
    own = cycled(tasks, config.steps, config.prompts_per_step)
    if not real:
        return own
    mixed = real + [task for step in own for task in step][: wanted - len(real)]
    rng.shuffle(mixed)
    return chunks(mixed, config.prompts_per_step)


def real_tasks(loop: Loop, count: int, fold: int, rng: random.Random) -> list[Task]:
    """`count` answers to labelled questions, right ones and plausible wrong ones in turn."""
    tasks: list[Task] = []
    others = [(q.question, q.answers[0]) for q in loop.labelled]
    while loop.labelled and len(tasks) < count:
        for question in rng.sample(list(loop.labelled), len(loop.labelled)):
            tasks += _right_and_wrong(loop, question, others, f"r{loop.round}.{len(tasks)}", fold, rng)
    return tasks[:count]


def _right_and_wrong(
    loop: Loop, question: Question, others: Sequence[tuple[str, str]], name: str, fold: int, rng: random.Random
) -> list[Task]:
    right = question.answers[0]
    wrong = rewards.plausible_wrong(question.question, question.answers, others, rng)
    given = [(right, "correct"), *([(wrong, "wrong")] if wrong else [])]
    return [
        loop.judging.task(f"{name}-{label[0]}", question.question, answer, right, label, question.hops, fold)
        for answer, label in given
    ]


def labelled_attempts(question: PoolQuestion, source: str) -> dict[str, str]:
    """Distinct answers -> label, from one of the sources in rewards/labels.py."""
    return rewards.LABELS[source](question.attempts, question.reference)


async def verdict_group(loop: Loop, task: Task) -> Group:
    judged = await asyncio.gather(*(loop.sample(task, i) for i in range(loop.config.grm.group_size)))
    label, weight, variant = task.references[0], loop.config.format_weight, loop.config.grm.variant
    given = [rewards.grm_reward(t, label, weight, variant) if loop.judging.opinions([t]) else None for t in judged]
    return Group.of(list(zip(judged, given, strict=True)))
