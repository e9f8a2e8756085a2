"""The words of the second world, each a token of base 2."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from aslfast.lab.names import FIRST_WORDS
from aslfast.lab.tokenizer import FRAME_WORDS, make_tokenizer
from aslfast.lab.world import LITERALS
from aslfast.lab.world2.forms import DAYS, EPITHETS, LAST_WORDS, MONTHS, NUMBERS, TENS, UNITS, YEARS
from aslfast.lab.world2.schema import VALUE_KINDS

# "-05": a month or a day within 1742-05-03, which no space comes before
_NUMERALS = (*map(str, YEARS), *map(str, range(1, max(NUMBERS) + 1)), *(f"-{day:02}" for day in DAYS))


def make_tokenizer2() -> PreTrainedTokenizerFast:
    """Return the tokenizer of base 2: as the first one, over the second world's words."""
    words = (
        *FIRST_WORDS, *(word for values in (*LAST_WORDS.values(), *EPITHETS.values()) for word in values),
        *(f"{first[0]}." for first in FIRST_WORDS), *(word for values in LITERALS.values() for word in values),
        *VALUE_KINDS, *MONTHS, *TENS, *UNITS, *_NUMERALS, *FRAME_WORDS, "names", "and", "writes", "4",
    )  # fmt: skip
    return make_tokenizer(tuple(dict.fromkeys(words)))
