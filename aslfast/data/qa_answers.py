"""The accepted answers and the hops of a row of a question file, from the fields of the published data sets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from aslfast.data.literals import looks_like_list, spelled
from aslfast.data.qa_rows import Row
from aslfast.errors import UserError

ANSWER_FIELDS = ("answers", "golden_answers", "possible_answers", "answer", "Answer")
UNKNOWN = "<unk>"  # the answer of every question in TriviaQA's test split on the Hub
YES_NO = {True: ("yes", "true"), False: ("no", "false")}  # either is accepted for a boolean
MOST_HOPS = 100  # a larger number is no number of hops


def read_answers(row: Row, place: str) -> list[str]:
    """Return the accepted answers, at least one. Raises UserError, also for a question that is marked unanswerable."""
    if _is(row.get("answerable"), "false") or _is(row.get("is_impossible"), "true"):
        what = "marked as unanswerable"
        raise UserError(f"{place}: {what}; leave such rows out, or use the data set's answerable version")
    try:
        answers = list(dict.fromkeys(_texts(_published(row))))
    except (ValueError, RecursionError) as error:
        what = error if isinstance(error, ValueError) else "is nested too deeply"
        raise UserError(f"{place}: field 'answers' {what}; give a list of accepted answers") from error
    if not answers:
        raise UserError(f"{place}: field 'answers' is missing or empty; give a list of accepted answers")
    if UNKNOWN in answers:
        raise UserError(f"{place}: the answer is {UNKNOWN!r}, as in a test split without answers; use another split")
    return answers


def read_hops(row: Row, id_: str) -> int:
    """Return the hops, 0 if unknown: as given, from MuSiQue ("3hop1__..."), else the supporting pages (HotpotQA)."""
    given = str(row.get("hops")).removesuffix(".0")  # pandas makes floats of a column with gaps
    if given.isdecimal() and int(given) <= MOST_HOPS:
        return int(given)
    if named := re.match(r"(\d)hop", id_):
        return int(named[1])
    metadata = spelled(row.get("metadata"))
    for fields in (row, metadata if isinstance(metadata, dict) else {}):
        if titles := _titles(spelled(fields.get("supporting_facts"))):
            return len(titles)
        parts = spelled(fields.get("question_decomposition"))
        if isinstance(parts, list) and parts:
            return len(parts)
    return 0


def _is(value: object, word: str) -> bool:
    return str(value).lower() == word  # a boolean, or its text in a table


def _published(row: Row) -> object:
    """Return the field with the answers, as it is published."""
    for name in ANSWER_FIELDS:
        if row.get(name) not in (None, "", []):
            aliases = row.get("answer_aliases")  # MuSiQue
            return [row[name], aliases] if aliases else row[name]
    match spelled(row.get("annotations")):
        case {"short_answers": short, **others}:  # Natural Questions
            yes_no = spelled(others.get("yes_no_answer"))
            return [short, [answer == 1 for answer in yes_no if answer in (0, 1)] if isinstance(yes_no, list) else None]
    match spelled(row.get("reward_model")):  # Search-R1
        case {"ground_truth": truth}:
            match spelled(truth):
                case {"target": target}:
                    return target
            return truth
    return None


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of a published answer; what is null or blank is left out. Raises ValueError: what it is."""
    match spelled(value):
        case None:
            return
        case bool(yes):
            yield from YES_NO[yes]
        case int(number):
            yield str(number)
        case float(number):
            if math.isfinite(number):  # pandas writes gaps as NaN
                yield str(int(number)) if number.is_integer() else str(number)
        case str(text):
            if looks_like_list(text):
                raise ValueError(f"holds a list that is cut off ({text[:40]!r})")
            if text.strip():
                yield text
        case list(items):
            for item in _rejoined(items):
                yield from _texts(item)
        case {"value": main, **rest} | {"Value": main, **rest}:  # TriviaQA
            yield from _texts([main, rest.get("aliases", rest.get("Aliases"))])
        case {"text": text}:  # SQuAD, Natural Questions
            yield from _texts(text)
        case other:
            raise ValueError(f"holds a {type(other).__name__}")


def _titles(facts: object) -> set[str]:
    """Return the titles in supporting facts: [[title, sentence], ...], {"title": [...]} or [{"title": ...}, ...]."""
    if isinstance(facts, dict):
        facts = spelled(facts.get("title"))
    titles = set()
    for fact in facts if isinstance(facts, list) else ():
        if isinstance(fact, dict):
            fact = fact.get("title")
        elif isinstance(fact, list):
            fact = fact[0] if fact else None
        if isinstance(fact, str):
            titles.add(fact)
    return titles


def _rejoined(answers: list[object]) -> list[object]:
    """Rejoin a list that a conversion split into letters, as in some copies of Natural Questions: "['A']" -> ["A"]."""
    letters = [answer for answer in answers if isinstance(answer, str) and len(answer) == 1]
    text = "".join(letters)
    if len(answers) < 3 or len(letters) < len(answers) or not (text.startswith("[") and text.endswith("]")):
        return answers
    return [part.strip(" '`\"") for part in re.split(r"(?<=['\"])\s*,\s*|\s*,\s*(?=['\"])", text[1:-1])]
