"""Two runs are the same if everything but timing is; a renamed key can be told."""

import json

from bench.shared.compare_runs import compare


def write_run(folder, metrics, weights=b"weights", adapter="grm"):
    (folder / "adapters" / adapter / "v0001").mkdir(parents=True)
    (folder / "adapters" / adapter / "v0001" / "adapter_model.safetensors").write_bytes(weights)
    (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (folder / "rounds.jsonl").write_text(json.dumps({"round": 0, "seconds": 2.0}) + "\n")
    return folder


def test_timing_does_not_count_and_everything_else_does(tmp_path):
    one = write_run(tmp_path / "one", {"reward": 0.5, "seconds": 1.0, "nested": {"tokens_per_s": 3.0, "n": [1, 2]}})
    same = write_run(tmp_path / "same", {"reward": 0.5, "seconds": 9.0, "nested": {"tokens_per_s": 8.0, "n": [1, 2]}})
    other = write_run(tmp_path / "other", {"reward": 0.5, "seconds": 1.0, "nested": {"n": [1, 3]}}, b"other")
    assert compare(one, same, {}) == []
    found = compare(one, other, {})
    assert found == [
        "metrics.jsonl[0].nested.n[1]: 2 -> 3",
        "adapters/grm/v0001/adapter_model.safetensors: other bytes",
    ]


def test_close_allows_last_bits_and_leaves_adapters_out(tmp_path):
    one = write_run(tmp_path / "one", {"reward": 0.5})
    other = write_run(tmp_path / "other", {"reward": 0.5001}, b"other")
    assert len(compare(one, other, {})) == 2
    assert compare(one, other, {}, close=1e-3) == []
    assert len(compare(one, write_run(tmp_path / "far", {"reward": 0.6}), {}, close=1e-3)) == 1


def test_names_of_metrics_and_adapters_may_change(tmp_path):
    before = write_run(tmp_path / "before", {"old": 1, "phase": "grm2"}, adapter="grm2")
    after = write_run(tmp_path / "after", {"new": 1, "phase": "second_judge"}, adapter="second_judge")
    assert compare(before, after, {"old": "new", "grm2": "second_judge"}) == []
    assert any("keys" in line for line in compare(before, after, {"grm2": "second_judge"}))
