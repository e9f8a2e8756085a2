"""A fictional encyclopaedia: works, persons and places with typed relations, made from a seed, and its oracle."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from aslfast.data.corpus import Passage
from aslfast.lab.names import NameClass, names

# kind of entity -> relation -> kind of value; a value kind that is no key here is a literal
SCHEMA: Mapping[str, Mapping[str, str]] = {
    "work": {"author": "person", "setting": "place", "genre": "genre"},
    "person": {"birthplace": "place", "teacher": "person", "job": "job"},
    "place": {"founder": "person", "country": "country", "river": "river"},
}
LITERALS: Mapping[str, tuple[str, ...]] = {
    "genre": ("satire", "tragedy", "romance", "fable", "epic", "comedy", "elegy", "thriller", "memoir", "farce"),
    "job": ("baker", "sailor", "lawyer", "surgeon", "farmer", "mason", "painter", "tailor", "clerk", "smith"),
    "country": (
        "Arvonia", "Belgrath", "Cordelia", "Drusmark", "Elbonia", "Fenwick", "Galdor", "Hystria", "Ixmoor", "Jundal",
    ),
    "river": (
        "Ashwater", "Blackrun", "Coldbrook", "Deepford", "Eastflow", "Foxstream", "Greywash", "Highfall", "Inkwell",
        "Longmere",
    ),
}  # fmt: skip
RELATIONS = sorted({relation for relations in SCHEMA.values() for relation in relations})
SIZES: Mapping[str, int] = {"work": 220, "person": 190, "place": 140}
_QUESTION = re.compile(r"what is ((?:the [a-z]+ of )+)(\w+ \w+) ?\?")


class HasQuestion(Protocol):
    """What is asked in a world: its text."""

    @property
    def question(self) -> str:
        """The question as it is asked."""
        ...


Q = TypeVar("Q", bound=HasQuestion)


@dataclass(frozen=True, slots=True)
class LabQuestion:
    """A question whose answer is known. chain: the entities from the subject to the answer."""

    question: str
    answer: str
    hops: int
    chain: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Facts by subject and relation, and the kind of each entity: what the lab's worlds have in common."""

    kinds: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]

    def walk(self, subject: str, relations: Sequence[str]) -> list[str] | None:
        """Return the values along the relations, the answer last; None where a step does not exist."""
        chain = [subject]
        for relation in relations:
            value = self.facts.get(chain[-1], {}).get(relation)
            if value is None:
                return None
            chain.append(value)
        return chain

    def random_chain(self, rng: random.Random, hops: int) -> tuple[list[str], list[str]]:
        """Return a random chain of that many relations that visits no value twice, and its relations."""
        subjects = list(self.facts)
        while True:
            chain, relations = [rng.choice(subjects)], []
            while len(relations) < hops and chain[-1] in self.facts:
                relation = rng.choice(sorted(self.facts[chain[-1]]))
                relations.append(relation)
                chain.append(self.facts[chain[-1]][relation])
            if len(relations) == hops and len(set(chain)) == len(chain):
                return chain, relations


@dataclass(frozen=True)
class World(Facts):
    """The first world: an answer has one spelling."""

    MOST_HOPS: ClassVar[int] = 3

    @classmethod
    def make(cls, seed: int, name_class: NameClass, sizes: Mapping[str, int] = SIZES) -> World:
        """Return the world of a seed, with names of one class. sizes: entities by kind."""
        rng = random.Random(f"{name_class}-{seed}")
        name = names(name_class, rng)
        members = {kind: [next(name) for _ in range(size)] for kind, size in sizes.items()}
        facts = {entity: _facts_of(entity, kind, members, rng) for kind in members for entity in members[kind]}
        return cls({entity: kind for kind in members for entity in members[kind]}, facts)

    def passages(self) -> list[Passage]:
        """Return one passage for each entity, in the Search-R1 form; each fact repeats its subject."""
        return [
            Passage(f"e{i}", f'"{e}"\n' + " ".join(sentence(r, e, v) for r, v in facts.items()))
            for i, (e, facts) in enumerate(self.facts.items())
        ]

    def answer(self, question: str) -> str | None:
        """Return the true answer of a question; None if it cannot be solved in this world. The oracle."""
        parsed = parse_question(question)
        chain = self.walk(*parsed) if parsed else None
        return chain[-1] if chain else None

    def value_kind(self, value: str) -> str:
        """Return the kind of an entity or literal."""
        return self.kinds.get(value) or next(kind for kind, values in LITERALS.items() if value in values)

    def alternatives(self, value: str) -> list[str]:
        """Return the other values of the same kind, from which plausible wrong answers are drawn."""
        kind = self.value_kind(value)
        values = LITERALS.get(kind) or [e for e, k in self.kinds.items() if k == kind]
        return [other for other in values if other != value]

    def ask(self, rng: random.Random, hops: int) -> LabQuestion:
        """Return a random question of that many hops whose chain visits no entity twice."""
        chain, relations = self.random_chain(rng, hops)
        return LabQuestion(write_question(chain[0], relations), chain[-1], hops, tuple(chain))

    def questions(self, rng: random.Random, count: int, hops: Sequence[int] = ()) -> list[LabQuestion]:
        """Return distinct questions, with the numbers of hops in turn; empty: all."""
        return distinct(lambda n: self.ask(rng, n), count, hops or range(1, self.MOST_HOPS + 1))

    def references(self, asked: LabQuestion) -> tuple[str, ...]:
        """Return the right spellings of a question's answer: one."""
        return (asked.answer,)


def distinct(ask: Callable[[int], Q], count: int, hops: Sequence[int]) -> list[Q]:
    """Return so many distinct questions. ask: a number of hops, given in turn, -> a question, perhaps an old one."""
    found: dict[str, Q] = {}
    while len(found) < count:
        asked = ask(hops[len(found) % len(hops)])
        found.setdefault(asked.question, asked)
    return list(found.values())


def _facts_of(entity: str, kind: str, members: Mapping[str, list[str]], rng: random.Random) -> dict[str, str]:
    """Return an entity's facts by relation, in random order."""
    relations = list(SCHEMA[kind].items())
    rng.shuffle(relations)
    values = {
        value_kind: LITERALS.get(value_kind) or [e for e in members[value_kind] if e != entity]
        for _, value_kind in relations
    }
    return {relation: rng.choice(values[value_kind]) for relation, value_kind in relations}


def sentence(relation: str, subject: str, value: str) -> str:
    """Return a fact as a sentence."""
    return f"{subject} has {relation} {value}."


def write_question(subject: str, relations: Sequence[str]) -> str:
    """Return the question whose chain follows the relations from the subject, in this order."""
    return "what is " + "".join(f"the {relation} of " for relation in reversed(relations)) + f"{subject}?"


def parse_question(question: str, grammar: re.Pattern[str] = _QUESTION) -> tuple[str, list[str]] | None:
    """Return (subject, relations in the order they are followed); None for text that is no question of the grammar."""
    match = grammar.fullmatch(" ".join(question.split()))
    if match is None:
        return None
    return match[2], re.findall(r"the ([a-z]+) of", match[1])[::-1]
