"""The English analyzer against terms that Lucene 9's EnglishAnalyzer made of the same texts, in normal form C."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast import _bm25

# From Porter's paper (1980), one or more words of every step, with the changes of his released program.
WORDS_AND_STEMS = """
caresses caress ponies poni ties ti caress caress cats cat feed feed agreed agre plastered plaster bled bled
motoring motor sing sing conflated conflat troubled troubl sized size hopping hop tanned tan falling fall hissing hiss
fizzed fizz failing fail filing file happy happi sky sky relational relat conditional condit rational ration
valenci valenc hesitanci hesit digitizer digit conformabli conform radicalli radic differentli differ vileli vile
analogousli analog vietnamization vietnam predication predic operator oper feudalism feudal decisiveness decis
hopefulness hope callousness callous formaliti formal sensitiviti sensit sensibiliti sensibl triplicate triplic
formative form formalize formal electriciti electr electrical electr hopeful hope goodness good revival reviv
allowance allow inference infer airliner airlin gyroscopic gyroscop adjustable adjust defensible defens irritant irrit
replacement replac adjustment adjust dependent depend adoption adopt homologou homolog communism commun activate activ
angulariti angular homologous homolog effective effect bowdlerize bowdler probate probat rate rate cease ceas
controll control roll roll archaeology archaeolog possibly possibl aed a ion ion as_ as_ oo oo yyyy yyyi
"""
STEMS = WORDS_AND_STEMS.split()

TEXTS = [
    ("The quick brown foxes' jumping", "quick brown fox jump"),
    ("O'Neil's can't U.S.A. AT&T", "o'neil can't u.s.a t"),
    ("John’s DOGS'S x＇S 's", "john dog x s"),
    ("3.14 1,000,000 1. a.1 1.a 12:30 a:b 3;4", "3.14 1,000,000 1 1 1 12 30 a:b 3;4"),
    ("snake_case __init__ _ a_1", "snake_cas __init__ a_1"),
    ("e-mail www.example.com/a?b=c foo@bar.org", "e mail www.example.com b c foo bar.org"),
    ("Beyoncé naïve cafés ÉCOLES İstanbul", "beyoncé naïv café école istanbul"),
    ("cafe\u0301s co\u0301te", "café cóte"),
    ("Δίας ΣΟΦΌΣ Москвы", "δίας σοφόσ москвы"),
    ("東京タワー ひらがな 한국어 ｶﾀｶﾅ １２３", "東 京 タワー ひ ら が な 한국어 ｶﾀｶﾅ １２３"),
    ("ภาษาไทย שלום״ר ש' हिन्दी", "ภาษาไทย שלום״ר ש' हिन्दी"),
    ("soft\u00adhyphen zero\u200dwidth a\ufeffb", "soft\u00adhyphen zero\u200dwidth a\ufeffb"),
    ("♥ 👩\u200d🚀 🇫🇷 🇫 x↔y 👍🏽", "♥ 👩\u200d🚀 🇫🇷 x ↔ y 👍🏽"),
    ("to be or not to be, THE THERE", ""),
    ("", ""),
    ("\x00 \n\t !?", ""),
]


def analyze(text: str) -> list[str]:
    return _bm25.analyze(text, "english")


@pytest.mark.parametrize(("word", "stem"), list(zip(STEMS[::2], STEMS[1::2], strict=True)))
def test_porter(word: str, stem: str) -> None:
    assert analyze(word) == ([] if word == "as" else [stem])


@pytest.mark.parametrize(("text", "terms"), TEXTS)
def test_terms_are_lucenes(text: str, terms: str) -> None:
    assert analyze(text) == terms.split(" " if terms else None)


def test_stop_words_are_lucenes_33() -> None:
    words = "a an and are as at be but by for if in into is it no not of on or such that the their then there"
    words += " these they this to was will with"
    assert len(words.split()) == 33
    assert analyze(words) == []
    assert analyze("he she his from which") == ["he", "she", "hi", "from", "which"]


def test_long_words_are_cut_after_255_utf16_units() -> None:
    assert [len(term) for term in analyze("x" * 600)] == [255, 255, 90]
    assert [len(term) for term in analyze("𐐀" * 200)] == [127, 73]  # two units each
    assert [len(term) for term in analyze("1." * 200)] == [255, 143]


def test_analyzers_have_names() -> None:
    assert _bm25.analyzers() == ["english", "simple", "cjk", "whitespace"]
    with pytest.raises(ValueError, match='"german": expected one of english, simple, cjk, whitespace'):
        _bm25.analyze("Wort", "german")


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_text_gives_lower_case_terms_without_spaces(text: str) -> None:
    for term in analyze(text):
        assert term
        assert not any(char.isspace() or "A" <= char <= "Z" for char in term)
        assert term.encode("utf-8").decode("utf-8") == term


@settings(max_examples=100)
@given(st.lists(st.text(alphabet="abcsyz'éß1.", min_size=1, max_size=12), max_size=8))
def test_words_apart_are_analyzed_apart(words: list[str]) -> None:
    assert analyze(" \n ".join(words)) == [term for word in words for term in analyze(word)]


# The tokenizer has a way of its own for ASCII: the same letters in Cyrillic and the same digits in Arabic go the other.
OTHERS = str.maketrans("bhjmqw0123456789", "бхжмяв٠١٢٣٤٥٦٧٨٩")
BACK = {after: before for before, after in OTHERS.items()}


@settings(max_examples=400)
@given(st.text(alphabet="bq1__.',;:\"- ", max_size=60))
def test_ascii_is_cut_as_other_scripts_are(text: str) -> None:
    expected = [term.translate(BACK) for term in analyze(text.translate(OTHERS))]
    assert analyze(text) == expected


@pytest.mark.parametrize("text", ["q" * 255, "q" * 256, "1," * 127 + "1", "1," * 127 + "11", "b_" * 128, "q.q" * 90])
@pytest.mark.parametrize("after", ["", ".", ".q", ",1", " q", "\u0301", "é", "–", "’", ".\u0301q"])
def test_ascii_words_of_great_length(text: str, after: str) -> None:
    expected = [term.translate(BACK) for term in analyze((text + after).translate(OTHERS))]
    assert analyze(text + after) == expected
