"""The layouts of the data sets' public copies, beyond the authors' own: Hub, DPR, tables; and what has no answer."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.core import Question
from aslfast.data.literals import spelled
from aslfast.data.qa_dataset import read_questions
from aslfast.errors import UserError

FACTS = [["Polish-Russian War (film)", 1], ["Xawery Żuławski", 2], ["Xawery Żuławski", 3]]
TWO_WIKI = {"_id": "88", "type": "compositional", "question": "Who?", "answer": "x"}
TWO_WIKI_ON_THE_HUB = {  # xanhho/2WikiMultihopQA: JSON in strings
    **TWO_WIKI,
    "context": json.dumps([["Maheen Khan", ["a", "b"]]]),
    "supporting_facts": json.dumps(FACTS),
    "evidences": json.dumps([["Polish-Russian War", "director", "Xawery Żuławski"]]),
}
STRUCT = {"title": [title for title, _ in FACTS], "sent_id": [1, 2, 3]}
HOTPOT = {"id": "5a", "question": "Who?", "answer": "yes", "supporting_facts": STRUCT, "type": "bridge"}
SHORT = [{"start_token": [1], "end_token": [3], "text": ["14 December"]}, {"start_token": [], "text": ["December"]}]
NQ = {"id": "79", "question": {"text": "when?", "tokens": ["when", "?"]}}
TRIVIA = {"value": "X", "aliases": ["Mr X"], "normalized_value": "x", "normalized_aliases": ["mr x"], "type": "w"}
PARTS = [{"id": 1, "question": "a", "answer": "b"}, {"id": 2, "question": "c", "answer": "d"}]
TARGET = {"style": "rule", "ground_truth": {"target": ["x", "y"]}}
ROWS = {  # a row of a public copy -> id, question, answers, hops
    "2Wiki of the Hub": (TWO_WIKI_ON_THE_HUB, Question("88", "Who?", ("x",), 2)),
    "2Wiki of framolfese": (
        {**HOTPOT, "context": {"title": ["a"], "sentences": [["b"]]}},
        Question("5a", "Who?", ("yes",), 2),
    ),
    "HotpotQA as texts": (
        {**HOTPOT, "supporting_facts": [["a", "0"], ["b", "1"]]},
        Question("5a", "Who?", ("yes",), 2),
    ),
    "facts as objects": (
        {**HOTPOT, "supporting_facts": [{"title": "a", "sent": 0}, {"title": "b", "sent": 1}]},
        Question("5a", "Who?", ("yes",), 2),
    ),
    "facts that are none": ({**HOTPOT, "supporting_facts": "see the paper"}, Question("5a", "Who?", ("yes",))),
    "FlashRAG, metadata in a string": (
        {"id": "d0", "question": "Who?", "golden_answers": ["x"], "metadata": json.dumps({"supporting_facts": STRUCT})},
        Question("d0", "Who?", ("x",), 2),
    ),
    "FlashRAG's MuSiQue": (
        {"id": "d0", "question": "Who?", "golden_answers": ["x"], "metadata": {"question_decomposition": PARTS}},
        Question("d0", "Who?", ("x",), 2),
    ),
    "MuSiQue": (
        {"id": "2hop__1_2", "question": "Who?", "answer": "x", "answer_aliases": [], "answerable": True},
        Question("2hop__1_2", "Who?", ("x",), 2),
    ),
    "Natural Questions": (
        {**NQ, "annotations": {"id": ["1", "2"], "short_answers": SHORT, "yes_no_answer": [-1, -1]}},
        Question("79", "when?", ("14 December", "December")),
    ),
    "Natural Questions, yes or no": (
        {**NQ, "annotations": {"short_answers": [{"text": []}], "yes_no_answer": [1]}},
        Question("79", "when?", ("yes", "true")),
    ),
    "SQuAD": (
        {"id": "5", "question": "Who?", "answers": {"text": ["x", "y", "x"], "answer_start": [3, 9, 3]}},
        Question("5", "Who?", ("x", "y")),
    ),
    "SQuAD's own": (
        {"id": "5", "question": "Who?", "answers": [{"text": "x", "answer_start": 3}], "is_impossible": False},
        Question("5", "Who?", ("x",)),
    ),
    "TriviaQA in a string": (
        {"question_id": "t", "question": "Who?", "answer": json.dumps(TRIVIA)},
        Question("t", "Who?", ("X", "Mr X")),
    ),
    "PopQA": (
        {"id": 7, "question": "What?", "obj": "x", "possible_answers": '["politician", "pol"]'},
        Question("7", "What?", ("politician", "pol")),
    ),
    "a list in a string in a list": (
        {"question": "Who?", "answers": ["['Paris', 'City of Paris']"]},
        Question("1", "Who?", ("Paris", "City of Paris")),
    ),
    "Search-R1, objects in strings": (
        {
            "prompt": json.dumps([{"role": "user", "content": "Answer. Question: Who?"}]),
            "reward_model": json.dumps(TARGET),
        },
        Question("1", "Who?", ("x", "y")),
    ),
    "Search-R1, truth in a string": (
        {"question": "Who?", "reward_model": {"style": "rule", "ground_truth": json.dumps({"target": ["x"]})}},
        Question("1", "Who?", ("x",)),
    ),
    "numbers": ({"question": "When?", "answers": [1903, 2.5]}, Question("1", "When?", ("1903", "2.5"))),
    "a number": ({"question": "When?", "answer": 1903.0}, Question("1", "When?", ("1903",))),
    "a boolean": ({"question": "Is it?", "answer": False}, Question("1", "Is it?", ("no", "false"))),
    "a list with null": ({"question": "Who?", "answers": ["x", None, ""]}, Question("1", "Who?", ("x",))),
    "hops as text": ({"id": "", "question": "Who?", "answer": "x", "hops": "3.0"}, Question("1", "Who?", ("x",), 3)),
}
NO_PARQUET = ("numbers",)  # lists of mixed types have no Parquet form


@pytest.mark.parametrize("source", ROWS)
def test_rows_of_public_copies(source, tmp_path):
    """The same from JSONL, a JSON list and Parquet."""
    row, question = ROWS[source]
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "q.json").write_text(json.dumps([row], indent=1))
    assert read_questions(tmp_path / "q.jsonl") == [question] == read_questions(tmp_path / "q.json")
    if source not in NO_PARQUET:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
        assert read_questions(tmp_path / "q.parquet") == [question]


def test_squads_own_file(tmp_path):
    questions = [{"id": n, "question": "Who?", "answers": [{"text": n, "answer_start": 0}]} for n in "ab"]
    paragraphs = [{"context": "c", "qas": [question]} for question in questions]
    (tmp_path / "q.json").write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    assert read_questions(tmp_path / "q.json") == [Question("a", "Who?", ("a",)), Question("b", "Who?", ("b",))]
    paragraphs[1]["qas"] = [{"id": "c", "question": "Why?", "answers": [], "is_impossible": True}]
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    refused(tmp_path / "q.json", "item 1, question 2: marked as unanswerable")


def refused(path, match):
    with pytest.raises(UserError, match=match) as raised:
        read_questions(path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"answer": "x", "answer_aliases": [], "answerable": False}, "line 2: marked as unanswerable"),
        ({"answer": "x", "answerable": "False"}, "line 2: marked as unanswerable"),
        ({"answer": {"value": "<unk>", "aliases": []}}, "line 2: the answer is '<unk>', as in a test split"),
        ({"answers": {"text": [], "answer_start": []}}, "line 2: field 'answers' is missing or empty"),
        ({"answer": None, "supporting_facts": "[]"}, "line 2: field 'answers' is missing or empty"),
        ({"annotations": {"short_answers": [{"text": []}], "yes_no_answer": [-1]}}, "line 2: field 'answers' is"),
        ({"annotations": {"short_answers": [{"start_token": 3}]}}, "line 2: field 'answers' holds a dict"),
        ({"answers": []}, "line 2: field 'answers' is missing or empty"),
    ],
)
def test_questions_without_an_answer_are_refused(row, match, tmp_path):
    first = {"question": "Who?", "answer": "x"}
    (tmp_path / "q.jsonl").write_text(json.dumps(first) + "\n" + json.dumps({"question": "Who?", **row}) + "\n")
    refused(tmp_path / "q.jsonl", match)


# --- lists in tables -------------------------------------------------------------------------------------------

CELLS = {  # as a table holds it -> the accepted answers
    '["Paris", "City of Paris"]': ("Paris", "City of Paris"),
    "['Paris', 'City of Paris']": ("Paris", "City of Paris"),
    "['Paris' 'City of Paris']": ("Paris", "City of Paris"),
    "['Paris'\n 'City of Paris']": ("Paris", "City of Paris"),
    "array(['Paris', 'City of Paris'], dtype=object)": ("array(['Paris', 'City of Paris'], dtype=object)",),
    "{'text': array(['Paris', 'x'], dtype=object), 'answer_start': array([1, 2], dtype=int32)}": ("Paris", "x"),
    "{'text': ['Paris'], 'answer_start': [1]}": ("Paris",),
    "{'value': 'Paris', 'aliases': array(['P', 'Q'], dtype=object), 'type': nan}": ("Paris", "P", "Q"),
    "('Paris', 'P')": ("Paris", "P"),
    """["L'Oréal", 'the "Fish" Cheer', 'a, b', 'it\\'s']""": ("L'Oréal", 'the "Fish" Cheer', "a, b", "it's"),
    "['Paris', None, nan, '']": ("Paris",),
    "[1903, 2.0]": ("1903", "2"),
    "[sic]": ("[sic]",),
    "(1903)": ("(1903)",),
    "(1, 2)": ("(1, 2)",),
    "{x}": ("{x}",),
    "1903": ("1903",),
    "Paris, or: ['a']": ("Paris, or: ['a']",),
    '"Heroes"': ('"Heroes"',),
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("name", ["answers", "possible_answers", "golden_answers", "answer"])
def test_lists_in_tables(name, suffix, tmp_path):
    separator = "," if suffix == ".csv" else "\t"
    lines = [f"question{separator}{name}"]
    lines += ["Who?" + separator + '"' + cell.replace('"', '""') + '"' for cell in CELLS]
    (tmp_path / f"q{suffix}").write_text("\n".join(lines) + "\n")
    assert [question.references for question in read_questions(tmp_path / f"q{suffix}")] == list(CELLS.values())


def test_2wiki_in_a_table(tmp_path):
    row = {"id": "a", "question": "Who?", "answer": "x", "supporting_facts": TWO_WIKI_ON_THE_HUB["supporting_facts"]}
    quoted = ["\t".join('"' + cell.replace('"', '""') + '"' for cell in cells) for cells in (row, row.values())]
    (tmp_path / "q.tsv").write_text("\n".join(quoted))
    assert read_questions(tmp_path / "q.tsv") == [Question("a", "Who?", ("x",), 2)]


def test_dprs_questions_have_tabs_and_no_names(tmp_path):
    file = tmp_path / "nq-test.csv"
    file.write_text("who got it\t['Wilhelm Röntgen', 'Röntgen']\nwhen, then\t['1901']\n")
    first, second = read_questions(file)
    assert first == Question("1", "who got it", ("Wilhelm Röntgen", "Röntgen")) and second.references == ("1901",)
    file.write_text("question,answer\nwho,x,y\n")
    refused(file, "line 2: 3 fields, but the first line names 2")
    file.write_text('question\tanswer\nwho\t"x\nwhen\ty\nwhere\t"z\n')
    refused(file, "nq-test.csv:2: a quote is not closed")


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "{" * 5000 + "}" * 5000, "['\\", "[1, ", "{'a': }"])
def test_what_spells_nothing_stays_text(text):
    assert spelled(text) is text
