"""A fictional encyclopaedia: works, persons and places with typed relations, made from a seed, and its oracle.

Every name is two words of a fixed set. The pairs fall into three classes that share no name: `base` (the worlds the
tiny base is trained on), `train` (the world the roles learn in) and `heldout` (the world they are measured on). So a
held-out entity occurs in no training task, and no model has seen it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aslfast.data.corpus import Passage

NameClass = Literal["base", "train", "heldout"]

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
        "Arvonia",
        "Belgrath",
        "Cordelia",
        "Drusmark",
        "Elbonia",
        "Fenwick",
        "Galdor",
        "Hystria",
        "Ixmoor",
        "Jundal",
    ),
    "river": (
        "Ashwater",
        "Blackrun",
        "Coldbrook",
        "Deepford",
        "Eastflow",
        "Foxstream",
        "Greywash",
        "Highfall",
        "Inkwell",
        "Longmere",
    ),
}
SIZES: Mapping[str, int] = {"work": 220, "person": 190, "place": 140}
_SHARE: Mapping[NameClass, tuple[int, ...]] = {"base": (2, 3, 4), "train": (0,), "heldout": (1,)}
_QUESTION = re.compile(r"what is ((?:the [a-z]+ of )+)(\w+ \w+) ?\?")


def _words(pattern: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choice(letters) for letters in pattern).capitalize()] = None
    return tuple(words)


_CONSONANTS, _VOWELS = "bdfgklmnprtvz", "aeiou"
FIRST_WORDS = _words((_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS), 100, seed=1)
SECOND_WORDS = _words((_CONSONANTS, _VOWELS, "lrnm", "bdgkpt", _VOWELS, "kmnr"), 100, seed=2)


def names(name_class: NameClass, rng: random.Random) -> Iterator[str]:
    """Distinct random names of one class."""
    seen: set[str] = set()
    while True:
        i, j = rng.randrange(len(FIRST_WORDS)), rng.randrange(len(SECOND_WORDS))
        name = f"{FIRST_WORDS[i]} {SECOND_WORDS[j]}"
        if (i + j) % 5 in _SHARE[name_class] and name not in seen:
            seen.add(name)
            yield name


def near_name(name: str, name_class: NameClass, rng: random.Random) -> str:
    """Another name of the class that shares its first or its second word."""
    first, second = name.split()
    keep_first = rng.random() < 0.5
    others = names(name_class, rng)
    while True:
        other_first, other_second = next(others).split()
        near = f"{first} {other_second}" if keep_first else f"{other_first} {second}"
        i, j = (words.index(word) for words, word in zip((FIRST_WORDS, SECOND_WORDS), near.split(), strict=True))
        if near != name and (i + j) % 5 in _SHARE[name_class]:
            return near


@dataclass(frozen=True, slots=True)
class LabQuestion:
    """A question whose answer is known. `chain` holds the entities on the way from the subject to the answer."""

    question: str
    answer: str
    hops: int
    chain: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Facts by subject and relation, and the kind of each entity."""

    kinds: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]

    @classmethod
    def make(cls, seed: int, name_class: NameClass, sizes: Mapping[str, int] = SIZES) -> World:
        rng = random.Random(f"{name_class}-{seed}")
        name = names(name_class, rng)
        members = {kind: [next(name) for _ in range(size)] for kind, size in sizes.items()}
        facts = {entity: _facts_of(entity, kind, members, rng) for kind in members for entity in members[kind]}
        return cls({entity: kind for kind in members for entity in members[kind]}, facts)

    def passages(self) -> list[Passage]:
        """One passage an entity, in the Search-R1 form; each fact repeats its subject."""
        return [
            Passage(f"e{i}", f'"{e}"\n' + " ".join(sentence(r, e, v) for r, v in facts.items()))
            for i, (e, facts) in enumerate(self.facts.items())
        ]

    def walk(self, subject: str, relations: Sequence[str]) -> list[str] | None:
        """The entities on the way along the relations, the answer last; None where a step does not exist."""
        chain = [subject]
        for relation in relations:
            value = self.facts.get(chain[-1], {}).get(relation)
            if value is None:
                return None
            chain.append(value)
        return chain

    def answer(self, question: str) -> str | None:
        """The oracle: the true answer of a question, or None if it cannot be solved in this world."""
        parsed = parse_question(question)
        chain = self.walk(*parsed) if parsed else None
        return chain[-1] if chain else None

    def value_kind(self, value: str) -> str:
        return self.kinds.get(value) or next(kind for kind, values in LITERALS.items() if value in values)

    def alternatives(self, value: str) -> list[str]:
        """Other values of the same kind: what a plausible wrong answer is drawn from."""
        kind = self.value_kind(value)
        pool = LITERALS.get(kind) or [e for e, k in self.kinds.items() if k == kind]
        return [other for other in pool if other != value]

    def ask(self, rng: random.Random, hops: int) -> LabQuestion:
        """A random question of that many hops whose chain never returns to an entity it has passed."""
        subjects = list(self.facts)
        while True:
            chain, relations = [rng.choice(subjects)], []
            while len(relations) < hops and chain[-1] in self.facts:
                relation = rng.choice(sorted(self.facts[chain[-1]]))
                relations.append(relation)
                chain.append(self.facts[chain[-1]][relation])
            if len(relations) == hops and len(set(chain)) == len(chain):
                return LabQuestion(write_question(chain[0], relations), chain[-1], hops, tuple(chain))

    def questions(self, rng: random.Random, count: int, hops: Sequence[int] = (1, 2, 3)) -> list[LabQuestion]:
        """Distinct questions, the numbers of hops in turn."""
        found: dict[str, LabQuestion] = {}
        while len(found) < count:
            item = self.ask(rng, hops[len(found) % len(hops)])
            found.setdefault(item.question, item)
        return list(found.values())


def _facts_of(entity: str, kind: str, members: Mapping[str, list[str]], rng: random.Random) -> dict[str, str]:
    relations = list(SCHEMA[kind].items())
    rng.shuffle(relations)
    pools = {
        value_kind: LITERALS.get(value_kind) or [e for e in members[value_kind] if e != entity]
        for _, value_kind in relations
    }
    return {relation: rng.choice(pools[value_kind]) for relation, value_kind in relations}


def sentence(relation: str, subject: str, value: str) -> str:
    return f"{subject} has {relation} {value}."


def write_question(subject: str, relations: Sequence[str]) -> str:
    return "what is " + "".join(f"the {relation} of " for relation in reversed(relations)) + f"{subject}?"


def parse_question(question: str) -> tuple[str, list[str]] | None:
    """(subject, relations in the order they are followed), or None where the text is no question of this grammar."""
    match = _QUESTION.fullmatch(" ".join(question.split()))
    if match is None:
        return None
    return match[2], re.findall(r"the ([a-z]+) of", match[1])[::-1]
