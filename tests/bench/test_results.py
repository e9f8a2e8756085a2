"""Result files are read under today's keys, whichever keys they were written with."""

import json

from bench.shared.results import read_result, write_result
from bench.shared.stamp import ROOT

RESULTS = ROOT / "bench" / "results"


def test_committed_files_have_the_keys_of_today():
    step, rounds = read_result(RESULTS / "learner-cpu.json"), read_result(RESULTS / "round-cpu.json")
    assert step["loss_tokens"] > 0 and all(row["loss_tokens_per_s"] > 0 for row in step["rows"])
    assert all(phase["loss_tokens"] > 0 for one in rounds["rounds"] for phase in one["phases"])
    rollout = read_result(RESULTS / "rollout-cpu.json")
    assert rollout["setting"]["max_running_requests"] == 16 and "no prefix cache" in rollout["ours_against"]
    claim = read_result(RESULTS / "claims-a.json")
    assert all(0 < r["accuracy"] < 1 for run in claim["arms"]["asl"]["runs"].values() for r in run["rounds"])


def test_only_the_keys_of_its_benchmark_are_renamed(tmp_path):
    old = {"bench": "rollout", "setting": {"rows": 4, "tasks": 1}, "figures": [{"rows_idle": 0.5}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    new = {"max_running_requests": 4, "prompts_per_step": 1}
    assert read_result(tmp_path / "old.json") == {
        "bench": "rollout", "setting": new, "metrics": [{"slots_idle": 0.5}],
    }  # fmt: skip
    write_result(tmp_path / "new" / "soak.json", {"bench": "soak", "rows": [1]})
    assert read_result(tmp_path / "new" / "soak.json") == {"bench": "soak", "rows": [1]}


def test_settings_have_the_keys_of_today(tmp_path):
    write_result(tmp_path / "old.json", {"bench": "soak", "set": ["policy.pool=12", "threads=1"]})
    assert read_result(tmp_path / "old.json")["set"] == ["policy.max_questions=12", "threads=1"]
