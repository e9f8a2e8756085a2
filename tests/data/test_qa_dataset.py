"""Question files as their sources publish them, and the errors for bad ones."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast.data.qa_dataset import Question, read_questions, write_questions
from aslfast.errors import UserError

QUESTIONS = [Question("a", "Who?", ("x", "y"), 2), Question("b", "Where is it?", ("z",))]


def test_questions_round_trip(tmp_path):
    write_questions(tmp_path / "q.parquet", QUESTIONS)
    assert read_questions(tmp_path / "q.parquet") == QUESTIONS
    assert read_questions(str(tmp_path / "q.parquet"), limit=1) == QUESTIONS[:1]
    rows = [{"id": q.id, "question": q.text, "golden_answers": q.references, "hops": q.hops} for q in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert read_questions(tmp_path / "q.jsonl") == QUESTIONS


def test_question_files_of_others(tmp_path):
    """No ids, one answer as text, no hops, half a surrogate pair."""
    rows = [{"question": "Who?", "answer": "x"}, {"id": None, "question": "Wh\ud800y?", "answers": ["y"], "hops": None}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(tmp_path / "q.jsonl") == [Question("1", "Who?", ("x",)), Question("2", "Wh?y?", ("y",))]


PROMPT = [{"role": "user", "content": "Answer the given question. <answer> Beijing </answer>. Question: Who?\n"}]
HOTPOT_FACTS = [["Oslo", 0], ["Oslo", 2], ["Aker", 1]]
SOURCES = {  # a row as it is published -> id, question, answers, hops
    "NQ-open": ({"question": "who?", "answer": ["x", "y"]}, Question("1", "who?", ("x", "y"))),
    "NQ, taken apart": ({"question": "who?", "answers": list("['A b', 'C']")}, Question("1", "who?", ("A b", "C"))),
    "TriviaQA": (
        {"QuestionId": "tc_1", "Question": "Who?", "Answer": {"Value": "X", "Aliases": ["X", "Mr X"]}},
        Question("tc_1", "Who?", ("X", "Mr X")),
    ),
    "TriviaQA of the hub": (
        {"question_id": "tc_1", "question": "Who?", "answer": {"value": "X", "aliases": ["Mr X"], "type": "w"}},
        Question("tc_1", "Who?", ("X", "Mr X")),
    ),
    "PopQA": (
        {"id": 7, "question": "What?", "obj": "x", "possible_answers": '["politician", "pol"]'},
        Question("7", "What?", ("politician", "pol")),
    ),
    "HotpotQA": (
        {"_id": "5a", "question": "Who?", "answer": "yes", "type": "bridge", "supporting_facts": HOTPOT_FACTS},
        Question("5a", "Who?", ("yes",), 2),
    ),
    "2WikiMultiHopQA": (
        {"_id": "2w", "question": "Who?", "answer": "x", "supporting_facts": [[t, 0] for t in "abcd"], "evidences": []},
        Question("2w", "Who?", ("x",), 4),
    ),
    "MuSiQue": (
        {"id": "3hop1__1_2_3", "question": "Who?", "answer": "x", "answer_aliases": ["z"], "answerable": True},
        Question("3hop1__1_2_3", "Who?", ("x", "z"), 3),
    ),
    "Bamboogle": ({"Question": "Who?", "Answer": "x"}, Question("1", "Who?", ("x",))),
    "FlashRAG": (
        {
            "id": "dev_0",
            "question": "Who?",
            "golden_answers": ["x"],
            "metadata": {"type": "bridge", "supporting_facts": {"title": ["a", "b", "a"], "sent_id": [0, 1, 2]}},
        },
        Question("dev_0", "Who?", ("x",), 2),
    ),
    "Search-R1": (
        {
            "id": "test_0", "question": "Who?", "golden_answers": ["x"], "data_source": "nq", "prompt": PROMPT,
            "reward_model": {"style": "rule", "ground_truth": {"target": ["x"]}}, "extra_info": {"index": 0},
        },
        Question("test_0", "Who?", ("x",)),
    ),
    "Search-R1, prompt alone": (
        {"data_source": "nq", "prompt": PROMPT, "reward_model": {"ground_truth": {"target": ["x", "y"]}}},
        Question("1", "Who?", ("x", "y")),
    ),
    "ASL": (
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Who?"}],
            "reward_model": {"style": "rule", "ground_truth": "x"},
        },
        Question("1", "Who?", ("x",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_published_rows(tmp_path, source):
    """The same from JSONL, from a JSON list and from Parquet."""
    row, question = SOURCES[source]
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "q.json").write_text(json.dumps([row], indent=1))
    assert read_questions(tmp_path / "q.jsonl") == [question] == read_questions(tmp_path / "q.json")
    if source not in ("HotpotQA", "2WikiMultiHopQA"):  # their lists of mixed types have no Parquet form
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
        assert read_questions(tmp_path / "q.parquet") == [question]


def test_separated_files(tmp_path):
    """PopQA's TSV, with JSON in quotes; Bamboogle's CSV; TriviaQA's object around the list."""
    tsv = 'id\tquestion\tpossible_answers\n4\tWhat is it?\t"[""a b"", ""c""]"\n'
    (tmp_path / "q.tsv").write_text(tsv)
    assert read_questions(tmp_path / "q.tsv") == [Question("4", "What is it?", ("a b", "c"))]
    (tmp_path / "q.csv").write_text('Question,Answer\n"Who, then?",x\n')
    assert read_questions(tmp_path / "q.csv") == [Question("1", "Who, then?", ("x",))]
    row, question = SOURCES["TriviaQA"]
    (tmp_path / "q.json").write_text(json.dumps({"Data": [row], "Domain": "Web"}))
    assert read_questions(tmp_path / "q.json") == [question]


def refused(path, match):
    with pytest.raises(UserError, match=match) as raised:
        read_questions(path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "line, match",
    [
        (b"{", "line 3 is not JSON"),
        (b"\xff", r"jsonl:3: not valid UTF-8 at byte 0"),
        (b"[1]", "line 3 is no JSON object"),
        (b'{"answers": ["x"]}', "line 3: field 'question' is missing"),
        (b'{"question": " ", "answers": ["x"]}', "line 3: field 'question'"),
        (b'{"prompt": [{"role": "user"}], "answers": ["x"]}', "line 3: field 'question'"),
        (b'{"question": "Who?"}', "line 3: field 'answers' is missing"),
        (b'{"question": "Who?", "answers": []}', "line 3: field 'answers'"),
        (b'{"question": 3, "answers": ["x"]}', "line 3: field 'question' is a int"),
        (b'{"question": "Who?", "answers": ["", null]}', "line 3: field 'answers' is missing"),
        (b'{"question": "Who?", "answers": NaN}', "line 3: field 'answers' is missing"),
        (b'{"question": "Who?", "answers": [{"a": 1}]}', "line 3: field 'answers' holds a dict"),
        (b'{"question": "Who?", "answer": "[\'Paris\', \'Lon"}', "line 3: field 'answers' holds a list that is cut"),
        (b'{"question": "Who?", "answers": ' + b"[" * 700 + b"]" * 700 + b"}", "answers' is (nested too|missing)"),
        (b'{"question": "Who?", "possible_answers": "{}"}', "line 3: field 'answers'"),
        (b'{"question": "Who?", "reward_model": {"ground_truth": null}}', "line 3: field 'answers'"),
    ],
)
def test_bad_lines_are_placed(tmp_path, line, match):
    """The third line of the file, though the second question: the second line is blank."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"question": "Who?", "answers": ["x"]}\n\n' + line + b"\n")
    refused(path, match)


def test_other_bad_files(tmp_path):
    path = tmp_path / "bad.parquet"
    refused(path, "no such question file")
    path.write_bytes(b"not parquet at all")
    refused(path, "not a Parquet file")
    pq.write_table(pa.table({"question": ["Who?", "Why?"], "answers": [["x"], []]}), path)
    refused(path, "row 2: field 'answers'")
    pq.write_table(pa.table({"question": ["Who?"]}), path)
    refused(path, "row 1: field 'answers' is missing")
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    refused(path, "no questions in it")
    for name, content, match in (
        ("empty.jsonl", b"\n", "no questions in it"),
        ("q.csv", b"Question,Answer\nWho?,\n", "line 2: field 'answers'"),
        ("q.tsv", b"question\tanswer\nWho?\t\xff\n", "q.tsv:2: not valid UTF-8"),
        ("q.json", b'[{"question": "Who?", "answer": "x"}, 1]', "item 2 is no JSON object"),
        ("d.json", b'{"data": 3}', "holds no list of questions"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, match)
