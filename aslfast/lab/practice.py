"""Practice examples for the skills that the roles need: to copy a name, to look up a fact, to compare two names."""

from __future__ import annotations

import random

from aslfast.lab.examples import Example, example_of
from aslfast.lab.names import names, near_name
from aslfast.lab.world import LITERALS, RELATIONS, sentence
from aslfast.prompts.chat_template import Chat


def copy_example(chat: Chat, rng: random.Random) -> Example:
    """Return practice in copying: names, then the same names again."""
    name = names("base", rng)
    listed = " ".join(next(name) for _ in range(rng.randint(3, 8)))
    return example_of(chat, [(f"{listed}\n", 0.0), (listed, 1.0)])


def look_up_example(chat: Chat, rng: random.Random) -> Example:
    """Return practice in looking up: a few short facts, then two of them again."""
    name = names("base", rng)
    values = [next(name) for _ in range(4)] + [rng.choice(rng.choice(list(LITERALS.values()))) for _ in range(2)]
    subjects = [next(name) for _ in range(rng.randint(1, 3))]
    facts = [
        (relation, rng.choice(subjects), rng.choice(values)) for relation in rng.sample(RELATIONS, rng.randint(3, 6))
    ]
    spans = [(f'"{subjects[0]}"\n' + " ".join(sentence(*fact) for fact in facts), 0.0)]
    for relation, subject, value in rng.sample(facts, 2):
        spans += [(f" {subject} has {relation}", 0.0), (f" {value}", 1.0)]
    return example_of(chat, spans)


def compare_example(chat: Chat, rng: random.Random, weight: float) -> Example:
    """Return practice in comparing: same or different, where half of the pairs differ, in one word or in both."""
    spans: list[tuple[str, float]] = []
    for _ in range(8):
        left, right = _pair(rng)
        spans += [(f" {left} says {right}", 0.0), (" same" if left == right else " different", weight)]
    return example_of(chat, spans)


def _pair(rng: random.Random) -> tuple[str, str]:
    """Return two names or two literals, the same with probability 1/2."""
    if rng.random() < 0.2:
        left, other = rng.sample(rng.choice(list(LITERALS.values())), 2)
    else:
        name = names("base", rng)
        left, other = next(name), next(name)
        if rng.random() < 0.7:
            other = near_name(left, "base", rng)
    return left, left if rng.random() < 0.5 else other
