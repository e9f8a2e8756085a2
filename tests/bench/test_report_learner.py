"""docs/learner.md shows what was measured and no more; its plot has a panel for each thing that was."""

import json
from pathlib import Path

import pytest

from bench.learner import report_learner
from bench.learner.plots import draw
from bench.learner.tables import round_lines, round_sentence, soak_lines, step_lines

ROOT = Path(__file__).resolve().parents[2]

STAMP = {"commit": "d" * 40, "dirty": False, "device": "a CPU", "cores": 2, "load_average": 0.5, "date": "2026-11-21"}


def small_step():
    def row(side, seconds):
        parts = dict.fromkeys(("forward", "head", "backward", "optimizer", "packing and loss"), seconds / 5)
        quantiles = {"median": seconds, "p20": 0.9 * seconds, "p80": 1.2 * seconds}
        return {"side": side, "seconds": quantiles, "peak_mib": 10.0, "loss_tokens_per_s": 100 / seconds,
                "all_tokens_per_s": 300 / seconds, "matmul_utilization": 0.25, "parts_s": parts}  # fmt: skip

    sides = (("packed, shared", 0.5), ("packed", 1.0), ("padded by length", 1.25), ("padded", 2.0))
    return {
        **STAMP, "shape": "tiny", "rank": 16, "attention": "sdpa", "activation_checkpointing": "none",
        "micro_batch_tokens": 4096, "padded_rows": 8, "trajectories": 12, "all_tokens": 300, "loss_tokens": 100,
        "n": 5, "matmul_flops_per_s": 1e9,
        "largest_gradient_difference": {"packed, shared": 1e-5, "padded": 2e-5},
        "versions": {"torch": "2.13.0"}, "rows": [row(*side) for side in sides],
    }  # fmt: skip


def small_round(rates_of="processor"):
    def both(seconds):
        return {"wall_s": 2 * seconds, "processor_s": seconds}

    def phase(name, seconds):
        fractions = {"rollout": 0.5, "tool": 0.05, "reward": 0.05, "learn": 0.3, "sync": 0.04, "commit": 0.03,
                  "monitor": 0.02, "rest": 0.01}  # fmt: skip
        learn = dict.fromkeys(("forward", "head", "backward", "optimizer", "packing and loss"), both(0.06 * seconds))
        return {
            "phase": name, "steps": 2, **both(seconds), "learn_parts": learn,
            "parts": {part: both(part_of * seconds) for part, part_of in fractions.items()}, "tool_overlapped_s": 0.25,
            "rollouts": 40, "trajectories": 12, "sampled_tokens": 1000, "loss_tokens": 500,
            "sampled_tokens_per_s": 2000 / seconds, "loss_tokens_per_s": None, "matmul_utilization": None,
        }  # fmt: skip

    def one(number, seconds):
        phases = [phase(name, part * seconds) for name, part in (("generator", 0.5), ("grm", 0.2), ("policy", 0.3))]
        return {"round": number, **both(seconds), "peak_mib": 20.0, "phases": phases}

    return {
        **STAMP, "recipe": "tiny", "set": ["policy.steps=2"], "sampler": "local", "threads": 1, "seed": 0, "n": 3,
        "versions": {"torch": "2.13.0"}, "rates_of": rates_of, "seconds": {"median": 20.0, "p20": 14.0, "p80": 26.0},
        "shown": 3, "rounds": [one(2, 10.0), one(3, 20.0), one(4, 30.0)],
    }  # fmt: skip


def small_soak():
    rows = [[phase, 100.0 + i, 12, 3, 0.5, 1000] for i, phase in enumerate(("generator", "grm", "policy") * 4)]
    limits = {
        "memory_mib": {"before": 104.5, "after": 110.5, "limit": 120.5, "kept": True},
        "files": {"before": 12, "after": 13, "limit": 12, "kept": False},
        "policy_us_per_token": {"before": 500.0, "after": 500.0, "limit": 575.0, "kept": True},
    }
    return {
        **STAMP, "recipe": "tiny", "set": ["threads=1"], "rounds": 2, "steps": 12, "updates": 11, "wall_s": 600,
        "limits": limits, "columns": ["phase", "rss_mib", "files", "threads", "seconds", "tokens"], "rows": rows,
    }  # fmt: skip


def test_the_step_is_compared_with_the_padded_one():
    assert list(step_lines(small_step()))[2] == (
        "| packed, shared | 200 | 600 | 25% | 10 | 0.1, 0.1, 0.1, 0.1, 0.1 | 4.00 |"
    )


def test_the_round_of_the_median_time_is_shown_whole():
    lines = list(round_lines(small_round()))
    assert lines[2].startswith("| generator | 20.0 | 10.0 | 50.0% | 5 (50.0%) | 0.5 (5.0%) |")
    assert lines[5].startswith("| **round** | 40.0 | 20.0 | 100.0% | 10 (50.0%) | 1 (5.0%) |")
    assert lines[-1] == ("| policy | 2 | 40 (12) | 1,000 | 333 | 500 | - | - | 0.36, 0.36, 0.36, 0.36, 0.36 |")
    sentence = round_sentence(small_round())
    assert "Recipe tiny --set policy.steps=2, local sampler, 1 thread, seed 0: round 3, whose time" in sentence
    assert "(p20 to p80: 14 to 26 s)" in sentence and "are of processor time, which leaves out waiting" in sentence
    assert "Searches took 0.8 s more in threads during the rollout." in sentence


def test_a_round_with_an_engine_is_reported_in_wall_time():
    lines = list(round_lines(small_round("wall")))
    assert lines[2].startswith("| generator | 20.0 | 10.0 | 50.0% | 10 (50.0%) | 1 (5.0%) |")
    assert "are of wall time." in round_sentence(small_round("wall"))


def test_a_limit_that_is_exceeded_is_shown():
    lines = list(soak_lines(small_soak()))
    assert lines[2] == "| anonymous memory, MiB | 104.5 | 110.5 | 120.5 | yes |"
    assert lines[3] == "| open files, maximum | 12 | 13 | 12 | **no** |"
    assert lines[4] == "| policy: microseconds per token | 500 | 500 | 575 | yes |"


def test_a_missing_result_is_reported_as_not_measured():
    text = "\n".join(report_learner.measured_block({"step": small_step()}))
    assert text.count("Not measured yet.") == 2 and text.count("on a GPU: not measured.") == 2
    assert "| packed, shared | 200 |" in text and "12 trajectories" in text
    assert "a packed step 2.00 times as fast; packing alone is 1.25 times as fast" in text
    with_gpu = "\n".join(report_learner.measured_block({"step": small_step(), "step on a GPU": small_step()}))
    assert with_gpu.count("on a GPU: not measured.") == 1 and with_gpu.count("| packed, shared | 200 |") == 2
    assert "learner.png" not in "\n".join(report_learner.measured_block({}))


def test_a_soak_is_in_the_page_if_it_exists(tmp_path):
    (tmp_path / "soak.json").write_text(json.dumps({"bench": "soak", **small_soak()}))
    text = "\n".join(report_learner.measured_block(report_learner.read_results(tmp_path)))
    assert "12 steps in 2 rounds of one process, 11 of which updated an adapter, in 10 minutes" in text


def test_the_page_is_what_the_report_makes_of_the_results():
    page = report_learner.PAGE.read_text(encoding="utf-8")
    results = report_learner.read_results(ROOT / "bench" / "results")
    assert report_learner.rewritten(page, results) == page, "run python -m bench.learner.report_learner"
    assert "| `rloo` | ppo, a ratio per token | 1, 1e+06 | 0.05 x k2 | constant 1 |" in page


@pytest.mark.parametrize(("names", "high"), [(("step",), 1), (("step", "round"), 1), (("step", "round", "soak"), 2)])
def test_plot_has_a_panel_for_each_thing(names, high, tmp_path):
    made = {"step": small_step, "round": small_round, "soak": small_soak}
    draw({name: made[name]() for name in names}, tmp_path / "learner.png")
    header = (tmp_path / "learner.png").read_bytes()[16:24]
    assert int.from_bytes(header[:4], "big") == 1200
    assert int.from_bytes(header[4:], "big") == 40 + 340 * high
