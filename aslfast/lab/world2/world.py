"""The second world: entities with namesakes, facts some of which are missing, passages that use one spelling each; and
its oracle, which knows every right spelling and whether a question has one answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from aslfast.data.corpus import Passage
from aslfast.lab.names import NameClass
from aslfast.lab.world import Facts, distinct, parse_question, sentence, write_question
from aslfast.lab.world2.forms import EntityName, entity_names, literal_forms
from aslfast.lab.world2.schema import SCHEMA2, literal_kind, random_literal

SIZES2: Mapping[str, int] = {"work": 90, "person": 90, "place": 70}
# so many of an entity's six relations are told, by the world's class of names; the base meets more that are missing, or
# its generator does not learn to look which ones are there
FACTS_TOLD: Mapping[NameClass, Sequence[int]] = {"base": (4, 5), "train": (5,), "heldout": (5,)}
MENTION_RATE = 0.35  # of the passages that name two entities without a fact about them
_QUESTION = re.compile(r"what is ((?:the [a-z]+ of )+)([\w.]+(?: [\w.]+)*) ?\?")


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question of the second world whose one answer is known. chain: values from the subject to the answer."""

    question: str
    relations: tuple[str, ...]
    chain: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The answer, as a value of the world."""
        return self.chain[-1]

    @property
    def hops(self) -> int:
        """The number of relations."""
        return len(self.relations)


@dataclass(frozen=True, slots=True)
class Told:
    """What the passage of an entity says. spelled: how it names its subject; written: its values, by relation.

    mentioned: entities that it names without a fact about them, as written, by value; a person and a place, or none.
    """

    spelled: str
    written: Mapping[str, str]
    mentioned: Mapping[str, str]


@dataclass(frozen=True)
class World2(Facts):
    """The second world. An entity stands for itself by its full name, a literal by its first form."""

    MOST_HOPS: ClassVar[int] = 4
    names: Mapping[str, EntityName]
    told: Mapping[str, Told]

    @classmethod
    def make(cls, seed: int, name_class: NameClass, sizes: Mapping[str, int] = SIZES2) -> World2:
        """Return the world of a seed, with names of one class. sizes: entities by kind."""
        rng = random.Random(f"world2-{name_class}-{seed}")
        members: dict[str, list[str]] = {}
        names: dict[str, EntityName] = {}
        for kind, size in sizes.items():
            stream = entity_names(kind, name_class, rng)
            made = [next(stream) for _ in range(size)]
            names |= {name.full: name for name in made}
            members[kind] = [name.full for name in made]
        kinds = {entity: kind for kind in members for entity in members[kind]}
        counts = FACTS_TOLD[name_class]
        facts = {entity: _facts_of(entity, kind, members, counts, rng) for entity, kind in kinds.items()}
        silent = cls(kinds, facts, names, {})
        return cls(kinds, facts, names, {entity: silent._tell(entity, rng) for entity in facts})

    def _tell(self, entity: str, rng: random.Random) -> Told:
        written = {relation: rng.choice(self.forms(value)) for relation, value in self.facts[entity].items()}
        spelled, met = rng.choice(self.forms(entity)), ("person", "place") if rng.random() < MENTION_RATE else ()
        mentioned = [rng.choice([e for e, k in self.kinds.items() if k == kind and e != entity]) for kind in met]
        return Told(spelled, written, {other: rng.choice(self.forms(other)) for other in mentioned})

    @cached_property
    def _named(self) -> Mapping[str, Sequence[str]]:
        """The entities that a form may name."""
        found: dict[str, list[str]] = {}
        for entity, name in self.names.items():
            for form in name.forms:
                found.setdefault(form, []).append(entity)
        return found

    def named(self, form: str) -> Sequence[str]:
        """Return the entities that a form may name: several where there are namesakes."""
        return self._named.get(form, ())

    def forms(self, value: str) -> tuple[str, ...]:
        """Return the right spellings of a value: of an entity, those that name no other one."""
        if value in self.names:
            return tuple(form for form in self.names[value].forms if len(self._named[form]) == 1)
        return literal_forms(self.value_kind(value), value)

    def value_kind(self, value: str) -> str:
        """Return the kind of a value."""
        return self.kinds.get(value) or literal_kind(value)

    def passages(self) -> list[Passage]:
        """Return one passage for each entity, in the Search-R1 form; its title is the long form."""
        return [Passage(f"e{i}", self.text_of(entity)) for i, entity in enumerate(self.facts)]

    def text_of(self, entity: str) -> str:
        """Return an entity's passage."""
        told = self.told[entity]
        said = [sentence(relation, told.spelled, written) for relation, written in told.written.items()]
        if told.mentioned:
            said.append("{} names {} and {}.".format(told.spelled, *told.mentioned.values()))
        return f'"{self.names[entity].long}"\n' + " ".join(said)

    def answer_values(self, question: str) -> list[str]:
        """Return the distinct values that answer a question: none where a fact is missing, several where namesakes lead
        to several.
        """
        parsed = parse_question2(question)
        if parsed is None:
            return []
        chains = [self.walk(subject, parsed[1]) for subject in self.named(parsed[0])]
        return list(dict.fromkeys(chain[-1] for chain in chains if chain))

    def answer(self, question: str) -> tuple[str, ...]:
        """Return every right spelling of a question's one answer; () where it has none or several. The oracle."""
        values = self.answer_values(question)
        return self.forms(values[0]) if len(values) == 1 else ()

    def references(self, asked: AskedQuestion) -> tuple[str, ...]:
        """Return the right spellings of a question's answer, first that of the passage which states it."""
        written = self.told[asked.chain[-2]].written[asked.relations[-1]]
        return tuple(dict.fromkeys((written, *self.forms(asked.answer))))

    def alternatives(self, value: str, rng: random.Random) -> list[str]:
        """Return other values of the same kind, from which plausible wrong answers are drawn."""
        kind = self.value_kind(value)
        if kind in SCHEMA2:
            return [entity for entity, own in self.kinds.items() if own == kind and entity != value]
        return [other for other in (random_literal(kind, rng) for _ in range(20)) if other != value]

    def ask(self, rng: random.Random, hops: int) -> AskedQuestion:
        """Return a random question of that many hops with one answer, whose chain visits no value twice.

        Its subject stands in any of its right spellings.
        """
        chain, relations = self.random_chain(rng, hops)
        subject = rng.choice(self.forms(chain[0]))
        return AskedQuestion(write_question(subject, relations), tuple(relations), tuple(chain))

    def ask_in_vain(self, rng: random.Random, hops: int) -> str:
        """Return a question of that many hops whose last fact is missing."""
        while True:
            asked = self.ask(rng, hops)
            missing = sorted(SCHEMA2[self.kinds[asked.chain[-2]]].keys() - self.facts[asked.chain[-2]].keys())
            relations = [*asked.relations[:-1], rng.choice(missing)]
            subject = rng.choice(self.forms(asked.chain[0]))
            question = write_question(subject, relations)
            if not self.answer_values(question):
                return question

    def questions(self, rng: random.Random, count: int, hops: Sequence[int] = ()) -> list[AskedQuestion]:
        """Return distinct questions, with the numbers of hops in turn; empty: all."""
        return distinct(lambda n: self.ask(rng, n), count, hops or range(1, self.MOST_HOPS + 1))


def _facts_of(
    entity: str, kind: str, members: Mapping[str, list[str]], counts: Sequence[int], rng: random.Random
) -> dict[str, str]:
    """Return an entity's facts by relation, in random order; the rest of its relations is missing."""
    relations = rng.sample(list(SCHEMA2[kind].items()), rng.choice(counts))
    return {
        relation: rng.choice([e for e in members[of] if e != entity]) if of in members else random_literal(of, rng)
        for relation, of in relations
    }


def parse_question2(question: str) -> tuple[str, list[str]] | None:
    """Return (subject as spelled, relations in the order they are followed); None for text of another grammar."""
    return parse_question(question, _QUESTION)
