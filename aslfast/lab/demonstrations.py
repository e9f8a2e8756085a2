"""Demonstrations of the three roles in a lab world, clean or with slips, and practice rows for the skills under them.

A demonstration is the same token stream that a rollout makes: prompt, sampled turns, observations. The slips are what
reinforcement learning later removes: a clean base would have nothing to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aslfast.lab.world import LITERALS, SCHEMA, World, names, near_name, parse_question, sentence
from aslfast.prompts import role_tasks
from aslfast.prompts.chat_template import Chat

Search = Callable[[str], str]  # a query -> the observation text that the search tool gives for it
RELATIONS = sorted({relation for relations in SCHEMA.values() for relation in relations})


@dataclass(frozen=True, slots=True)
class Slips:
    """How often a demonstration goes wrong, per decision."""

    guess: float = 0.0  # policy: answers with any literal, without a search
    wrong_fact: float = 0.0  # policy: takes another fact of the passage, at each hop
    stop_early: float = 0.0  # policy: answers with an entity on the way, at each hop but the last
    judge_wrong_fact: float = 0.0  # grm: as wrong_fact
    wrong_verdict: float = 0.0  # grm: concludes against its own comparison
    wrong_reference: float = 0.0  # generator: closes with another fact's value


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids and the weight of each token's loss (0: prompt and passage tokens)."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


class Writer:
    """Collects the spans of one demonstration."""

    def __init__(self, chat: Chat, task: role_tasks.Task) -> None:
        self.chat = chat
        self.ids: list[int] = chat.prompt_ids(task.prompt)
        self.weights: list[float] = [0.0] * len(self.ids)

    def say(self, text: str, weight: float = 1.0) -> None:
        ids = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.ids += ids
        self.weights += [weight] * len(ids)

    def observe(self, text: str) -> None:
        ids = self.chat.observation_ids(text, turn_closed=False)
        self.ids += ids
        self.weights += [0.0] * len(ids)

    def row(self) -> Row:
        return Row(tuple(self.ids), tuple(self.weights))


def call(query: str) -> str:
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


def policy_row(chat: Chat, world: World, search: Search, question: str, slips: Slips, rng: random.Random) -> Row:
    writer = Writer(chat, role_tasks.policy_task("demo", question, "compact"))
    if rng.random() < slips.guess:
        writer.say(f"{_think('guess')}<answer>{rng.choice(rng.choice(list(LITERALS.values())))}</answer>")
        return writer.row()
    found, thought = _research(writer, world, search, question, slips.wrong_fact, slips.stop_early, rng)
    writer.say(f"<think>{thought}</think><answer>{found}</answer>")
    return writer.row()


def grm_row(
    chat: Chat,
    world: World,
    search: Search,
    question: str,
    answer: str,
    slips: Slips,
    rng: random.Random,
    weight: float,
) -> Row:
    """The judge finds the answer itself, spells out the comparison, then concludes."""
    writer = Writer(chat, role_tasks.grm_task("demo", question, answer, "compact"))
    found, thought = _research(writer, world, search, question, slips.judge_wrong_fact, 0.0, rng)
    same = found == answer
    writer.say(f"<think>{thought} {answer} says {found}")
    writer.say(" same" if same else " different", weight)
    writer.say("</think><verdict>")
    verdict = same if rng.random() >= slips.wrong_verdict else not same
    writer.say("correct" if verdict else "wrong", weight)
    writer.say("</verdict>")
    return writer.row()


def generator_row(
    chat: Chat, world: World, search: Search, question: str, hops: int, slips: Slips, rng: random.Random
) -> Row:
    """Reads about the topic, then about what it found there, before it decides what to ask."""
    parsed = parse_question(question)
    assert parsed is not None
    subject, relations = parsed
    writer = Writer(chat, role_tasks.generator_task("demo", subject, hops, "compact"))
    thought = ""
    for relation in relations:
        writer.say(_think(f"{thought} find {subject}") + call(subject))
        writer.observe(search(subject))
        value = world.facts[subject][relation]
        thought = sentence(relation, subject, value)
        others = [other for other in world.facts[subject].values() if other != value]
        subject = value
    if rng.random() < slips.wrong_reference:
        value = rng.choice(others)
    writer.say(f"{_think(thought)}<question>{question}</question><answer>{value}</answer>")
    return writer.row()


def _think(thought: str) -> str:
    return f"<think>{thought.strip()}</think>"


def _research(
    writer: Writer,
    world: World,
    search: Search,
    question: str,
    wrong_fact: float,
    stop_early: float,
    rng: random.Random,
) -> tuple[str, str]:
    """Follows the question's chain one search a hop; returns what it takes for the answer and its last thought."""
    parsed = parse_question(question)
    assert parsed is not None
    subject, relations = parsed
    thought = ""
    for hop, relation in enumerate(relations):
        writer.say(_think(f"{thought} find {relation} of {subject}") + call(f"{relation} of {subject}"))
        writer.observe(search(f"{relation} of {subject}"))
        facts = world.facts[subject]
        value = facts[relation]
        last = hop == len(relations) - 1
        if rng.random() < wrong_fact:
            value = rng.choice(_slip_values(world, subject, relation, must_be_entity=not last))
        thought = sentence(relation, subject, value)
        if not last and rng.random() < stop_early:
            break
        subject = value
    return value, thought


def wrong_answer(world: World, question: str, answer: str, rng: random.Random) -> str:
    """A plausible wrong answer: half of the time a value that stands near the chain, else another of the same kind."""
    parsed = parse_question(question)
    assert parsed is not None
    chain = world.walk(*parsed)
    assert chain is not None
    near = [
        value
        for entity in chain[:-1]
        for value in (entity, *world.facts[entity].values())
        if value != answer and value != chain[0]
    ]
    return rng.choice(near if near and rng.random() < 0.5 else world.alternatives(answer))


def _slip_values(world: World, subject: str, relation: str, must_be_entity: bool) -> list[str]:
    """Another value that stands in the subject's own passage; on the way of a chain, one of the same kind."""
    others = [v for r, v in world.facts[subject].items() if r != relation]
    if must_be_entity:
        others = [v for v in others if world.kinds.get(v) == world.kinds[world.facts[subject][relation]]]
    return others or world.alternatives(world.facts[subject][relation])


def copy_row(chat: Chat, rng: random.Random) -> Row:
    """Practice: say the same names again."""
    name = names("base", rng)
    listed = " ".join(next(name) for _ in range(rng.randint(3, 8)))
    return _practice(chat, [(f"{listed}\n", 0.0), (listed, 1.0)])


def look_up_row(chat: Chat, rng: random.Random) -> Row:
    """Practice: a few short facts, then two of them again."""
    name = names("base", rng)
    values = [next(name) for _ in range(4)] + [rng.choice(rng.choice(list(LITERALS.values()))) for _ in range(2)]
    subjects = [next(name) for _ in range(rng.randint(1, 3))]
    facts = [
        (relation, rng.choice(subjects), rng.choice(values)) for relation in rng.sample(RELATIONS, rng.randint(3, 6))
    ]
    spans = [(f'"{subjects[0]}"\n' + " ".join(sentence(*fact) for fact in facts), 0.0)]
    for relation, subject, value in rng.sample(facts, 2):
        spans += [(f" {subject} has {relation}", 0.0), (f" {value}", 1.0)]
    return _practice(chat, spans)


def compare_row(chat: Chat, rng: random.Random, weight: float) -> Row:
    """Practice: same or different; half of the pairs differ in one word or in all."""
    spans: list[tuple[str, float]] = []
    for _ in range(8):
        left, right = _pair(rng)
        spans += [(f" {left} says {right}", 0.0), (" same" if left == right else " different", weight)]
    return _practice(chat, spans)


def _pair(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.2:
        left, other = rng.sample(rng.choice(list(LITERALS.values())), 2)
    else:
        name = names("base", rng)
        left, other = next(name), next(name)
        if rng.random() < 0.7:
            other = near_name(left, "base", rng)
    return left, left if rng.random() < 0.5 else other


def _practice(chat: Chat, spans: Sequence[tuple[str, float]]) -> Row:
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in spans:
        part = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        weights += [weight] * len(part)
    return Row(tuple(ids), tuple(weights))
