"""Surface forms: the right spellings of an entity's name, of a date and of a number, and which of them goes where.

The first form of each kind is the generator's: so it spells a reference. A form that names two entities of a world is a
right spelling of neither (world.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aslfast.lab.names import CONSONANTS, FIRST_WORDS, REMAINDERS, VOWELS, NameClass, random_words

EPITHETS: Mapping[str, tuple[str, ...]] = {
    "person": ("Dr", "Sir", "Lady", "Prof"),
    "place": ("Port", "Fort", "Mount", "Lake"),
    "work": ("Saga", "Ballad", "Tale", "Song"),
}
# by kind, so that a name tells its kind; of shapes that share no word with each other or with the first words
LAST_WORDS: Mapping[str, tuple[str, ...]] = {
    "person": random_words((CONSONANTS, VOWELS, "lrnm", "bdgkpt", VOWELS, "kmnr"), 120, seed=3),
    "place": random_words((CONSONANTS, VOWELS, CONSONANTS, VOWELS, "lrn", "dtgk"), 120, seed=4),
    "work": random_words((VOWELS, CONSONANTS, VOWELS, CONSONANTS, VOWELS), 120, seed=5),
}
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
YEARS = range(1700, 1760)
DAYS = range(1, 29)
NUMBERS = range(20, 100)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class EntityName:
    """An entity's name: "Dr Tamo Vilken". Only the epithet belongs to the kind."""

    epithet: str
    first: str
    last: str

    @property
    def full(self) -> str:
        """First and last word: no two entities of a world share it."""
        return f"{self.first} {self.last}"

    @property
    def long(self) -> str:
        """The full name with its epithet."""
        return f"{self.epithet} {self.full}"

    @property
    def initial(self) -> str:
        """The generator's form: "T. Vilken"."""
        return f"{self.first[0]}. {self.last}"

    def house(self, form: str) -> str:
        """Return the generator's spelling, as far as it follows from another one: the last word alone stays."""
        return form if form == self.last else self.initial

    @property
    def forms(self) -> tuple[str, str, str, str]:
        """The four forms: initial, full, long, and the last word alone."""
        return self.initial, self.full, self.long, self.last


def entity_names(kind: str, name_class: NameClass, rng: random.Random) -> Iterator[EntityName]:
    """Yield random names of one kind and class, no two with the same full form, without end."""
    seen: set[tuple[int, int]] = set()
    while True:
        i, j = rng.randrange(len(FIRST_WORDS)), rng.randrange(len(LAST_WORDS[kind]))
        if (i + j) % 5 in REMAINDERS[name_class] and (i, j) not in seen:
            seen.add((i, j))
            yield EntityName(rng.choice(EPITHETS[kind]), FIRST_WORDS[i], LAST_WORDS[kind][j])


def random_date(rng: random.Random) -> str:
    """Return a date in the generator's form: "3 May 1742"."""
    return f"{rng.choice(DAYS)} {rng.choice(MONTHS)} {rng.choice(YEARS)}"


def date_forms(date: str) -> tuple[str, str, str]:
    """Return the forms of a date that is given in the first of them: "3 May 1742", "May 3 1742", "1742-05-03"."""
    day, month, year = date.split()
    return date, f"{month} {day} {year}", f"{year}-{MONTHS.index(month) + 1:02}-{int(day):02}"


def random_number(rng: random.Random) -> str:
    """Return a number in the generator's form, digits."""
    return str(rng.choice(NUMBERS))


def number_forms(number: str) -> tuple[str, str]:
    """Return the forms of a number that is given in digits: "47", "forty seven"."""
    tens, units = divmod(int(number), 10)
    return number, TENS[tens - 2] + (f" {UNITS[units - 1]}" if units else "")


def literal_forms(kind: str, value: str) -> tuple[str, ...]:
    """Return the forms of a literal of a kind; one form where it is neither a date nor a number."""
    makers = {"date": date_forms, "number": number_forms}
    return makers[kind](value) if kind in makers else (value,)
