"""What is measured against the truth: intervals, accuracies and the reading of question files."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aslfast import evaluate, roles
from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.errors import UserError
from aslfast.evaluate import Question, Share, read_questions, write_questions


@pytest.mark.parametrize(
    "hits, n, low, high",
    [  # R: prop.test(hits, n, correct = FALSE)$conf.int; Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_interval(hits, n, low, high):
    share = Share.of(hits, n)
    assert share.value == hits / n and share.n == n
    assert share.low == pytest.approx(low, abs=6e-5) and share.high == pytest.approx(high, abs=6e-5)


def test_wilson_is_where_the_score_test_turns():
    """The bounds solve |p - q| = z sqrt(q (1 - q) / n)."""
    for hits, n in ((3, 10), (70, 300), (150, 300)):
        share = Share.of(hits, n)
        for q in (share.low, share.high):
            assert abs(hits / n - q) == pytest.approx(evaluate.Z95 * math.sqrt(q * (1 - q) / n))
    assert (Share.of(0, 0).low, Share.of(0, 0).high) == (0.0, 1.0)
    assert str(Share.of(1, 2)) == "0.500 [0.095, 0.905]"


def ended(output, references=("Oslo",), hops=1, role="policy", answer=None, searches=1):
    stop = StopReason.NO_OUTPUT if output is None else StopReason.FINISHED
    turns = tuple(Turn("tool", 0, 0, "found") for _ in range(searches))
    return Trajectory(Task("t", role, "p", "q?", tuple(references), hops), (), (), (), turns, stop, output, answer)


def test_policy_scores():
    one_hop = [ended("oslo!", hops=1), ended("in Oslo", hops=1, searches=3)]
    three_hops = [ended("Bergen", hops=3), ended(None, hops=3, searches=0)]
    scores = evaluate.policy_scores([*one_hop, *three_hops, ended("Rome", ("Bergen", "rome"), hops=0)])
    assert scores["policy_accuracy"] == 2 / 5 and scores["n_eval"] == 5
    assert scores["policy_interval"] == [Share.of(2, 5).low, Share.of(2, 5).high]
    by_hops = {hops: (part["accuracy"], part["n"]) for hops, part in scores["by_hops"].items()}
    assert by_hops == {"1": (0.5, 2), "3": (0.0, 2)}
    assert scores["contains"] == 3 / 5
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 0 + 0 + 1) / 5)
    assert scores["searches"] == 6 / 5
    assert scores["stops"] == {"finished": 4, "no_output": 1}


def test_grm_scores_are_balanced():
    """Three right answers of which two are passed, one wrong answer that is caught: (2/3 + 1) / 2, not 3/4."""
    judged = [ended(v, ("correct",), role="grm") for v in ("correct", "correct", "wrong")]
    scores = evaluate.grm_scores([*judged, ended("wrong", ("wrong",), role="grm")])
    assert scores["grm_on_right"] == pytest.approx(2 / 3) and scores["grm_on_wrong"] == 1.0
    assert scores["grm_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["grm_interval"][0] < scores["grm_accuracy"] < scores["grm_interval"][1]
    always = [ended("correct", (label,), role="grm") for label in ("correct", "wrong") * 20]
    assert evaluate.grm_scores(always)["grm_accuracy"] == 0.5
    silent = [ended(None, (label,), role="grm") for label in ("correct", "wrong")]
    assert evaluate.grm_scores(silent)["grm_accuracy"] == 0.0


def test_generator_scores():
    truth = {"what is the river of Oslo?": "Aker", "what is the job of Mira?": "baker"}
    written = [
        ended("what is the river of Oslo?", (), role="generator", answer="the Aker"),
        ended("what is the job of Mira?", (), role="generator", answer="mason"),
        ended("what is the colour of Mira?", (), role="generator", answer="red"),
        ended("what is it", (), role="generator", answer="x"),
        ended(None, (), role="generator"),
    ]
    scores = evaluate.generator_scores(written, truth.get)
    assert scores["solvable_share"] == 1 / 5
    assert scores["valid_share"] == 3 / 5
    assert scores["reference_right"] == pytest.approx(1 / 3)
    assert evaluate.generator_scores(written[-1:], truth.get)["reference_right"] == 0.0


def test_valid_question():
    assert roles.valid_question("Who is it?")
    assert not roles.valid_question("Who is?") and not roles.valid_question("Tell me who it is.")


QUESTIONS = [Question("a", "Who?", ("x", "y"), 2), Question("b", "Where is it?", ("z",))]


def test_questions_round_trip(tmp_path):
    write_questions(tmp_path / "q.parquet", QUESTIONS)
    assert read_questions(tmp_path / "q.parquet") == QUESTIONS
    assert read_questions(str(tmp_path / "q.parquet"), limit=1) == QUESTIONS[:1]
    rows = [{"id": q.id, "question": q.question, "golden_answers": q.answers, "hops": q.hops} for q in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert read_questions(tmp_path / "q.jsonl") == QUESTIONS


def test_question_files_of_others(tmp_path):
    """No ids, one answer as text, no hops, half a surrogate pair."""
    rows = [{"question": "Who?", "answer": "x"}, {"id": None, "question": "Wh\ud800y?", "answers": ["y"], "hops": None}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(tmp_path / "q.jsonl") == [Question("1", "Who?", ("x",)), Question("2", "Wh?y?", ("y",))]


def refused(path, match):
    with pytest.raises(UserError, match=match) as raised:
        read_questions(path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "line, match",
    [
        (b"{", "line 3 is not JSON"),
        (b"\xff", "line 3 is not JSON"),
        (b"[1]", "line 3 is no JSON object"),
        (b'{"answers": ["x"]}', "line 3: field 'question' is missing"),
        (b'{"question": " ", "answers": ["x"]}', "line 3: field 'question'"),
        (b'{"question": "Who?"}', "line 3: field 'answers' is missing"),
        (b'{"question": "Who?", "answers": []}', "line 3: field 'answers'"),
        (b'{"question": "Who?", "answers": ["x", ""]}', "line 3: field 'answers'"),
        (b'{"question": "Who?", "answers": [1]}', "line 3: field 'answers'"),
    ],
)
def test_bad_lines_are_placed(tmp_path, line, match):
    """The third line of the file, though the second question: the second line is blank."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"question": "Who?", "answers": ["x"]}\n\n' + line + b"\n")
    refused(path, match)


def test_bad_parquet_files(tmp_path):
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
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    refused(tmp_path / "empty.jsonl", "no questions in it")
