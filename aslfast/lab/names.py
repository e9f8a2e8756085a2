"""Names of the lab: two words of a fixed set, in three classes that share no name.

`base` names the worlds the tiny base is trained on, `train` the world the roles learn in, `heldout` the world they are
evaluated on. So a held-out entity occurs in no training task, and no model has seen it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

NameClass = Literal["base", "train", "heldout"]
# of the pair of words i and j: a name's class is that of (i + j) modulo 5
REMAINDERS: Mapping[NameClass, tuple[int, ...]] = {"base": (2, 3, 4), "train": (0,), "heldout": (1,)}


def random_words(pattern: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Return distinct random words, each with a letter of every part of the pattern."""
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choice(letters) for letters in pattern).capitalize()] = None
    return tuple(words)


CONSONANTS, VOWELS = "bdfgklmnprtvz", "aeiou"
FIRST_WORDS = random_words((CONSONANTS, VOWELS, CONSONANTS, VOWELS), 100, seed=1)
SECOND_WORDS = random_words((CONSONANTS, VOWELS, "lrnm", "bdgkpt", VOWELS, "kmnr"), 100, seed=2)


def names(name_class: NameClass, rng: random.Random) -> Iterator[str]:
    """Yield distinct random names of one class, without end."""
    seen: set[str] = set()
    while True:
        i, j = rng.randrange(len(FIRST_WORDS)), rng.randrange(len(SECOND_WORDS))
        name = f"{FIRST_WORDS[i]} {SECOND_WORDS[j]}"
        if (i + j) % 5 in REMAINDERS[name_class] and name not in seen:
            seen.add(name)
            yield name


def near_name(name: str, name_class: NameClass, rng: random.Random) -> str:
    """Return another name of the class that shares its first or its second word."""
    first, second = name.split()
    keep_first = rng.random() < 0.5
    others = names(name_class, rng)
    while True:
        other_first, other_second = next(others).split()
        near = f"{first} {other_second}" if keep_first else f"{other_first} {second}"
        i, j = (words.index(word) for words, word in zip((FIRST_WORDS, SECOND_WORDS), near.split(), strict=True))
        if near != name and (i + j) % 5 in REMAINDERS[name_class]:
            return near
