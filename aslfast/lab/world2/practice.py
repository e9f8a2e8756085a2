"""Practice examples for the skills that the roles need: to look up under another spelling, to compare two spellings, to
write the generator's one.
"""

from __future__ import annotations

import random

from aslfast.lab.examples import Example, example_of
from aslfast.lab.names import FIRST_WORDS
from aslfast.lab.world import LITERALS, sentence
from aslfast.lab.world2.forms import EntityName, entity_names, literal_forms
from aslfast.lab.world2.schema import SCHEMA2, random_literal
from aslfast.prompts.chat_template import Chat


def look_up_example2(chat: Chat, rng: random.Random) -> Example:
    """Return practice in looking up: the facts of two subjects, often namesakes; then a subject in another form, and
    two of its facts as the passage spells them.
    """
    kind = rng.choice(list(SCHEMA2))
    name = _name(kind, rng)
    subjects = [name, _near(name, kind, rng) if rng.random() < 0.5 else _other(name, kind, rng)]
    spelled = _told_apart(subjects, rng)
    facts = {
        subject: [(r, rng.choice(_value(rng, of))) for r, of in rng.sample(list(SCHEMA2[kind].items()), 3)]
        for subject in spelled
    }
    order = rng.sample(spelled, 2)
    said = "\n".join(" ".join(sentence(r, subject, value) for r, value in facts[subject]) for subject in order)
    asked = rng.randrange(2)
    known = rng.choice([form for form in subjects[asked].forms if form not in subjects[1 - asked].forms])
    spans = [(f"{said}\n", 0.0)]
    for relation, value in rng.sample(facts[spelled[asked]], 2):
        fact = sentence(relation, spelled[asked], value)
        spans += [(f" find {relation} of {known}", 0.0), (f" {fact}", 1.0)]
    return example_of(chat, spans)


def compare_example2(chat: Chat, rng: random.Random, weight: float) -> Example:
    """Return practice in comparing: two spellings, both again in the generator's form, same or different.

    Half of the pairs differ, often in one word.
    """
    spans: list[tuple[str, float]] = []
    for _ in range(6):
        (left, left_house), (right, right_house), same = _pair(rng)
        spans += [(f" {left} and {right}", 0.0), (f" {left_house} says {right_house}", 1.0)]
        spans.append((" same" if same else " different", weight))
    return example_of(chat, spans)


def rewrite_example2(chat: Chat, rng: random.Random) -> Example:
    """Return practice in writing the generator's form of names, dates and numbers."""
    spans: list[tuple[str, float]] = []
    for _ in range(8):
        kind = rng.choice(("date", "number", *SCHEMA2))
        value = _name(kind, rng) if kind in SCHEMA2 else random_literal(kind, rng)
        form, house = _spelled(kind, value, rng)
        spans += [(f" {form} writes", 0.0), (f" {house}", 1.0)]
    return example_of(chat, spans)


def _name(kind: str, rng: random.Random) -> EntityName:
    return next(entity_names(kind, "base", rng))


def _near(name: EntityName, kind: str, rng: random.Random) -> EntityName:
    """Return a namesake: another first word before the same last one."""
    first = rng.choice([word for word in FIRST_WORDS if word != name.first])
    return EntityName(_name(kind, rng).epithet, first, name.last)


def _value(rng: random.Random, kind: str) -> tuple[str, ...]:
    """Return the forms of a random value of a kind."""
    return _name(kind, rng).forms if kind in SCHEMA2 else literal_forms(kind, random_literal(kind, rng))


def _told_apart(subjects: list[EntityName], rng: random.Random) -> list[str]:
    """Return a form of each of two names that the other has not."""
    return [
        rng.choice([form for form in name.forms if form not in other.forms])
        for name, other in zip(subjects, reversed(subjects), strict=True)
    ]


def _spelled(kind: str, value: EntityName | str, rng: random.Random) -> tuple[str, str]:
    """Return a value in any form, and in the generator's as far as that follows."""
    if isinstance(value, EntityName):
        form = rng.choice(value.forms)
        return form, value.house(form)
    forms = literal_forms(kind, value)
    return rng.choice(forms), forms[0]


def _pair(rng: random.Random) -> tuple[tuple[str, str], tuple[str, str], bool]:
    """Return two spellings, each with the generator's form, and whether they are of one value: with probability 1/2."""
    same = rng.random() < 0.5
    kind = rng.choice((*SCHEMA2, *SCHEMA2, "date", "date", "number", "number", rng.choice(list(LITERALS))))
    if kind in SCHEMA2:
        name = _name(kind, rng)
        if same:
            return _spelled(kind, name, rng), _spelled(kind, name, rng), True
        near = _near(name, kind, rng) if rng.random() < 0.6 else _other(name, kind, rng)
        left, right = _told_apart([name, near], rng)
        return (left, name.house(left)), (right, near.house(right)), False
    value = random_literal(kind, rng)
    other = value if same else _near_literal(kind, value, rng)
    return _spelled(kind, value, rng), _spelled(kind, other, rng), same


def _other(name: EntityName, kind: str, rng: random.Random) -> EntityName:
    """Return a name with the same first word and another last one, or a new name."""
    other = _name(kind, rng)
    while other.last == name.last:
        other = _name(kind, rng)
    return EntityName(other.epithet, name.first if rng.random() < 0.5 else other.first, other.last)


def _near_literal(kind: str, value: str, rng: random.Random) -> str:
    """Return another literal; of dates half of the time one that differs in a single part."""
    other = random_literal(kind, rng)
    if kind == "date" and rng.random() < 0.5:
        part, parts = rng.randrange(3), value.split()
        parts[part] = other.split()[part]
        other = " ".join(parts)
    return other if other != value else _near_literal(kind, value, rng)
