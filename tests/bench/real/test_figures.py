"""The figures of an evaluation against those counted by hand; the time left; the page has what the result says."""

import json

import pytest

from bench.real_run import pipeline
from bench.real_run.markdown import evaluation_table, loop_table, page_block
from bench.real_run.pipeline import Stage, time_left
from bench.real_run.report import BEGIN, END, PAGE, with_block
from bench.real_run.scores import ceiling_figures, differences, judge_figures, policy_figures, probe_figures


def answered(id_, em, f1=0.0, stop="finished", output="x"):
    scores = {"em": float(em), "f1": f1, "searches": 1.0 + em, "tokens": 10, "entropy": 0.5}
    return {"id": id_, "stop": stop, "output": output if stop == "finished" else None, **scores}


ROWS = [
    answered("a", 1, 1.0),
    answered("b", 0, 0.5),
    answered("c", 0, 0.0, stop="no_output"),
    answered("d", 1, 1.0),
]


def test_the_policys_figures():
    figures = policy_figures(ROWS, [True, True, True, False], seed=0)
    assert figures["n"] == 4 and figures["searches"] == 1.5 and figures["stops"] == {"finished": 3, "no_output": 1}
    assert figures["em"]["value"] == 0.5 and figures["f1"]["value"] == pytest.approx(2.5 / 4)
    assert figures["em"]["low"] == 0.0 and figures["em"]["high"] == 1.0  # of four, any draw may be all right or wrong
    assert figures["well_formed"]["value"] == figures["gold_found"]["value"] == 0.75
    # Wilson: (3/4 + z2/8 -+ z sqrt(3/64 + z2/64)) / (1 + z2/4), z = 1.96
    assert figures["well_formed"]["low"] == pytest.approx(0.3006, abs=1e-4)
    assert figures["well_formed"]["high"] == pytest.approx(0.9544, abs=1e-4)


def test_differences_are_paired():
    better = [answered(row["id"], 1, 1.0) for row in ROWS]
    found = differences(ROWS, better, seed=0)
    assert found["em"]["value"] == 0.5 and found["f1"]["value"] == pytest.approx(1.5 / 4)
    # two of four differ, both upwards: all signs as large in 2 of 4 flips
    assert found["em"]["p"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="other questions"):
        differences(ROWS, better[::-1], seed=0)


def test_the_judges_figures():
    verdicts = {"a": ("correct", "wrong"), "b": ("correct", "correct"), "c": ("wrong", None), "d": ("correct", "wrong")}
    rows = [
        {"id": id_, "label": label, "verdict": said}
        for id_, both in verdicts.items()
        for label, said in zip(("correct", "wrong"), both, strict=True)
    ]
    figures = judge_figures(rows, seed=0)
    assert figures["right_called_correct"] == 0.75 and figures["wrong_called_wrong"] == 0.5
    assert figures["balanced_accuracy"]["value"] == (0.75 + 0.5) / 2 and figures["unreadable"] == 1 / 8


def test_the_probe_sets_the_judge_beside_the_truth():
    verdicts = [{"id": id_, "verdict": said} for id_, said in (("a", "correct"), ("b", "correct"), ("d", "wrong"))]
    figures = probe_figures(ROWS, verdicts, seed=0)
    assert figures["judge_pass_rate"] == 0.5 == figures["judge_probe_accuracy"] and figures["n_judge_probe"] == 4


def test_ceilings():
    assert ceiling_figures({"question": [True, False, True]})["question"]["value"] == 2 / 3


def test_the_time_left_follows_the_pace(tmp_path):
    def kept(name, seconds, done):
        record = {"seconds": seconds, "peak_bytes": 1, "attempts": 1, "done": done}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    stages = [
        Stage("a", "A", lambda: None, tokens=700),
        Stage("b", "B", lambda: None, tokens=2100, seconds=5),
        Stage("c", "C", lambda: None, tokens=1400, learns=True),
    ]
    assert (
        time_left(stages, tmp_path) == "about 0:11 left of everything (a guess until the model has run)"
    )  # 700 a second
    kept("a", 70.0, True)
    assert time_left(stages, tmp_path) == "about 5:55 left of everything"  # 3,500 at 10 a second, and 5
    kept("b", 55.0, False)
    assert time_left(stages, tmp_path) == "about 5:00 left of everything"
    kept("c", 1400.0, True)
    assert time_left(stages, tmp_path) == "about 2:40 left of everything"  # its kind is slower, the others are not


def test_a_stage_that_fails_is_told_and_repeated(tmp_path, capfd):
    def fail():
        raise pipeline.UserError("no passages there")

    marker = tmp_path / "made"
    stages = [Stage("good", "the good one", marker.touch), Stage("bad", "the bad one", fail)]
    with pytest.raises(pipeline.UserError, match="bad: ended with code 2"):
        pipeline.run_stages(stages, tmp_path / "stages")
    assert "real: no passages there" in capfd.readouterr().err and marker.exists()
    marker.unlink()
    stages[1] = Stage("bad", "the bad one", lambda: None)
    pipeline.run_stages(stages, tmp_path / "stages")
    assert not marker.exists()  # done: not again
    record = pipeline.read_record(tmp_path / "stages", "bad")
    assert record.done and record.attempts == 2 and record.peak_bytes > 1e6


PLAYED = {"stop": "finished", "em": 1.0, "conversation": "=== prompt ===\nP\n=== model ===\n```M [a](b)"}
RESULT = {
    "evaluations": {"dev": {"untouched": {"policy": policy_figures(ROWS, [True] * 4, 0)}}},
    "differences": {"dev": {"cold-start - untouched": differences(ROWS, ROWS, 0)}},
    "ceilings": {"dev": ceiling_figures({"question": [True, False]})},
    "curves": {
        "rule": {
            "metrics": [{"round": 1, "phase": "policy", "reward": r} for r in (0.25, 0.5)],
            "rounds": [{"round": 1, "policy_accuracy": 0.5, "alarms": [{"name": "entropy of the policy"}]}],
        },
        "asl": {"metrics": [], "rounds": []},
    },
    "stages": {"rule": {"seconds": 61.0, "attempts": 2, "peak_bytes": 2.5e9}},
    "settings": {"dtype": "float32", "seed": 0},
    "made": [{"commit": "abcdef0123", "dirty": False}],
    "test_touched": [], "device": "CPU", "cores": 2, "date": "2026-01-02T03:04:05",
    "examples": [
        {
            "question": "who `x` [y](z)?", "references": ["a", "b"],
            **dict.fromkeys(("untouched", "cold-start", "rule", "asl"), PLAYED),
        }
    ],
}  # fmt: skip


def test_the_tables_have_the_figures():
    assert list(evaluation_table(RESULT, "dev"))[2] == (
        "| the model as it comes | 4 | 50.0% (0.0-100.0) | 62.5% (25.0-100.0) | 75.0% (30.1-95.4) | 1.50 | 10 | "
        "100.0% (51.0-100.0) |"
    )
    assert list(loop_table(RESULT))[2] == "| rule 1 | - | - | 0.375 | 50.0% | - | entropy of the policy |"
    page = "\n".join(page_block(RESULT))
    assert "| rule | 1:01 | 2 | 2.50 GB |" in page and "Commit abcdef01; CPU, 2 cores" in page
    assert "'''M [a] (b)" in page and "who x y(z)?" in page  # nothing of the model is markup


def test_the_page_says_what_the_result_says():
    page = PAGE.read_text(encoding="utf-8")
    result = PAGE.parent.parent / "bench" / "results" / "real.json"
    lines = page_block(json.loads(result.read_text())) if result.exists() else ["Not run yet."]
    assert page == with_block(page, lines) and page.count(BEGIN) == page.count(END) == 1
