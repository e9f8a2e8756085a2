"""What is told of whom in the second world: relations by kind of subject, and the values of the literal kinds."""

from __future__ import annotations

import random
from collections.abc import Mapping

from aslfast.lab.world import LITERALS
from aslfast.lab.world2.forms import random_date, random_number

# kind of entity -> relation -> kind of value
SCHEMA2: Mapping[str, Mapping[str, str]] = {
    "work": {
        "author": "person", "translator": "person", "setting": "place", "genre": "genre", "published": "date",
        "pages": "number",
    },
    "person": {
        "birthplace": "place", "teacher": "person", "spouse": "person", "debut": "work", "job": "job", "born": "date",
    },
    "place": {
        "founder": "person", "neighbour": "place", "country": "country", "river": "river", "founded": "date",
        "height": "number",
    },
}  # fmt: skip
VALUE_KINDS: Mapping[str, str] = {r: kind for relations in SCHEMA2.values() for r, kind in relations.items()}


def random_literal(kind: str, rng: random.Random) -> str:
    """Return a literal of a kind, in the generator's form."""
    makers = {"date": random_date, "number": random_number}
    return makers[kind](rng) if kind in makers else rng.choice(LITERALS[kind])


def literal_kind(value: str) -> str:
    """Return the kind of a literal that stands in the generator's form."""
    if value.isdecimal():
        return "number"
    return next((kind for kind, values in LITERALS.items() if value in values), "date")
