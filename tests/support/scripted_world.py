"""A small world of the lab and actors that play the three roles in it with known odds."""

import asyncio
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

from aslfast import rewards
from aslfast.core import Question
from aslfast.lab.world import World, write_question
from aslfast.rewards import Attempt
from aslfast.rollout.multi_turn import Rollout
from aslfast.rounds.group_result import extended_pool
from aslfast.rounds.round import run_round

WORLD = World.make(0, "train", {"work": 12, "person": 10, "place": 8})
SMALL = [
    "generator.steps=2", "generator.prompts_per_step=3", "generator.group_size=3",
    "generator.rollouts_per_question=4", "generator.self_checks=2",
    "generator.min_acceptance=0.5", "grm.steps=2", "grm.prompts_per_step=3", "grm.group_size=3", "grm.label=reference",
    "policy.steps=2", "policy.prompts_per_step=4", "policy.group_size=4",
    "sampler.max_new_tokens=24", "format_weight=0.1",
]  # fmt: skip


def actors(right=0.5, fair=0.8, honest=1.0):
    """A script: the policy answers right with one chance, the judge sees the truth with another, and so on."""

    def play(prompt, seed):
        rng = random.Random(seed)
        asked = prompt.split("user\n")[1].split("<|im_end|>")[0]
        if asked.startswith("ask "):
            hops, topic = re.fullmatch(r"ask (\d): (.*)", asked).groups()
            return [_search(topic), question_turn(topic, int(hops), rng, honest)]
        if asked.startswith("answer: "):
            truth = WORLD.answer(asked.removeprefix("answer: "))
            answer = truth if rng.random() < right else rng.choice(WORLD.alternatives(truth))
            return [_search(answer), f"<think>so</think><answer>{answer}</answer>"]
        question, answer = re.fullmatch(r"judge: (.*\?) answer: (.*)", asked).groups()
        correct = (WORLD.answer(question) == answer) == (rng.random() < fair)
        return [f"<verdict>{'correct' if correct else 'wrong'}</verdict>"]

    return play


def _search(query):
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


def question_turn(topic, hops, rng, honest):
    relations, at = [], topic
    while len(relations) < hops and at in WORLD.facts:
        relations.append(rng.choice(sorted(WORLD.facts[at])))
        at = WORLD.facts[at][relations[-1]]
    answer = at if rng.random() < honest else rng.choice(WORLD.alternatives(at))
    return f"<think>so</think><question>{write_question(topic, relations)}</question><answer>{answer}</answer>"


def play(context):
    """The lines of metrics.jsonl after one round."""
    asyncio.run(run_round(context))
    return [json.loads(line) for line in (context.checkpointer.run.path / "metrics.jsonl").read_text().splitlines()]


def gather(context, play_group, task):
    """The group of one task, played in a step of its own; its new questions enter the question pool."""
    result = asyncio.run(play_group(context.start_step().for_group(), task))
    context.state.pool = extended_pool(context.state.pool, [result])
    return result.groups[0]


@dataclass(frozen=True)
class HookedRollout(Rollout):
    """A rollout whose trajectories pass through `hook(play, task, number)`; `play()` plays the real one."""

    hook: Callable | None = None

    async def run(self, task, sample, *rest):
        return await self.hook(lambda: super(HookedRollout, self).run(task, sample, *rest), task, sample)


def hooked(context, hook):
    """The context, its rollouts seen and changed by `hook`."""
    parts = {item.name: getattr(context.rollout, item.name) for item in fields(context.rollout)}
    context.rollout = HookedRollout(**parts, hook=hook)
    return context


def pool_question(task_id, question, reference, hops, attempts=(), fold=0):
    """A question of the round that its id names: qg<round>-<task>-<number>."""
    number = int(re.match(r"qg(\d+)-", task_id)[1])
    return Question(task_id, question, (reference,), hops, fold, number, attempts)


def prefilled(context):
    """With questions in the pool, so that every phase has something to do."""
    for i, item in enumerate(WORLD.questions(random.Random(0), 6)):
        wrong = WORLD.alternatives(item.answer)[0]
        question = pool_question(f"qg1-{i}-0", item.question, item.answer, item.hops, attempts_of(item.answer, wrong))
        context.state.pool[rewards.normalize(item.question)] = question
    return context


def attempts_of(*answers):
    return tuple(Attempt(answer, (None,)) for answer in answers)
