"""The simple, cjk and whitespace analyzers against plain Python, and with them the normal forms against unicodedata."""

# ruff: noqa: RUF001  (look-alike characters are what it tests)
from __future__ import annotations

import re
import unicodedata
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast._bm25 import analyze

WHITE_SPACE = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
CJK = "東京都二〇々ひらがなばぱカタカナーバｶﾊﾞﾟ한국어ㄱ㈱㍿⼀葛\u1112\u1161\u11ab"
IN_PAIRS = re.compile(r"[\u1100-\u11ff\u3005\u3007\u3041-\u3096\u309d\u309e\u30a1-\u30fe\u4e00-\u9fff\uac00-\ud7a3]")
MARKS = "\u0301\u0323\u0331\u0345\u0344\u3099\u309a\ufe00\u05b0\u05b4"
ODD = MARKS + "HAaéËΩΩÅﬁ①²½ǆẛᾼͅ각각\u1160क़ﷺⅣ＿ａ１,._ \t\u00a0\u3000\ufffd\x00"


def known(char: str) -> bool:
    """Return whether a character is the same in our Unicode version, 14, and in that of this Python."""
    return unicodedata.unidata_version == "14.0.0" or unicodedata.ucd_3_2_0.category(char) != "Cn"


def whitespace(text: str) -> list[str]:
    return [word for word in WHITE_SPACE.split(unicodedata.normalize("NFC", text)) if word]


def simple(text: str) -> list[str]:
    words = [""]
    for char in unicodedata.normalize("NFKC", text):
        major = unicodedata.category(char)[0]
        if major in "LN" or (major == "M" and words[-1]):
            words[-1] += char
        else:
            words.append("")
    return [unicodedata.normalize("NFKC", "".join(c.lower()[0] for c in word)) for word in words if word]


def cjk(text: str) -> list[str]:
    """Analyse the characters of CJK and ODD; the scripts that give pairs have more."""
    kept: list[str] = []  # without the marks that follow characters of these scripts
    for char in unicodedata.normalize("NFKC", text):
        if not (kept and IN_PAIRS.match(kept[-1]) and unicodedata.category(char)[0] == "M"):
            kept.append(char)
    terms = []
    for in_pairs, run in groupby(kept, lambda char: bool(IN_PAIRS.match(char))):
        word = "".join(run)
        terms += ([a + b for a, b in pairwise(word)] or [word]) if in_pairs else simple(word)
    return terms


def decomposed(char: str) -> str:
    return unicodedata.normalize("NFD", char) + unicodedata.normalize("NFKD", char)


REFERENCES = {"whitespace": whitespace, "simple": simple, "cjk": cjk}


def test_normal_forms_of_every_character() -> None:
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and known(chr(c))]
    for start in range(0, len(chars), 512):
        text = "\n".join(f"a{char}\u0323\u0301b{decomposed(char)}" for char in chars[start : start + 512])
        assert analyze(text, "whitespace") == whitespace(text)
        assert analyze(text, "simple") == simple(text)


@pytest.mark.parametrize("analyzer", REFERENCES)
@settings(max_examples=500)
@given(st.text(st.sampled_from(ODD + CJK), max_size=30))
def test_analyzers_do_as_plain_python(analyzer: str, text: str) -> None:
    assert analyze(text, analyzer) == REFERENCES[analyzer](text)


@pytest.mark.parametrize("analyzer", ["whitespace", "simple"])
@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"]).filter(known), max_size=30))
def test_analyzers_do_as_plain_python_with_any_text(analyzer: str, text: str) -> None:
    assert analyze(text, analyzer) == REFERENCES[analyzer](text)


@pytest.mark.parametrize("analyzer", ["english", *REFERENCES])
@settings(max_examples=200)
@given(st.text(st.sampled_from(ODD + CJK), max_size=30))
def test_composed_and_decomposed_texts_give_the_same_terms(analyzer: str, text: str) -> None:
    assert analyze(unicodedata.normalize("NFD", text), analyzer) == analyze(text, analyzer)


@pytest.mark.parametrize(
    ("analyzer", "text", "terms"),
    [
        ("simple", "The U.S. can't STOP_me in 2024, Café ﬁne ½", "the u s can t stop me in 2024 café fine 1 2"),
        ("simple", "हिन्दी TÜRKÇE İZMİR ΣΟΦΌΣ 東京タワー", "हिन्दी türkçe izmir σοφόσ 東京タワー"),
        ("cjk", "東京タワーは2024年 Tokyo's 塔", "東京 京タ タワ ワー ーは 2024 年 tokyo s 塔"),
        ("cjk", "ｶﾞﾗｽ，한국어 ＡＢＣ", "ガラ ラス 한국 국어 abc"),
        ("cjk", "葛\U000e0100飾区", "葛飾 飾区"),
        ("whitespace", " The U.S.\u00a0can't\u3000東京、x\u200by ", "The U.S. can't 東京、x\u200by"),
    ],
)
def test_terms_of_some_texts(analyzer: str, text: str, terms: str) -> None:
    assert analyze(text, analyzer) == terms.split(" ")


@pytest.mark.parametrize("analyzer", ["simple", "whitespace", "cjk"])
def test_long_words_are_cut_after_255_utf16_units(analyzer: str) -> None:
    assert [len(term) for term in analyze("x" * 600, analyzer)] == [255, 255, 90]
    assert [len(term) for term in analyze("é" * 600, analyzer)] == [255, 255, 90]
    assert [len(term) for term in analyze("𐐀" * 200, analyzer)] == [127, 73]
