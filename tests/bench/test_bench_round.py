"""The benchmark of a round: its clock counts each second once, its parts add up, and it changes no bit of the round."""

import json
import sys
from pathlib import Path

import pytest
import torch

from aslfast.clock import CLOCK
from aslfast.config import load_recipe
from aslfast.config.roles import ROLES
from aslfast.rounds import round
from aslfast.rounds.records import TIMED
from aslfast.speed import step_flops
from bench.learner.step_parts import STEP_PARTS
from bench.learner.tables import round_lines, round_sentence
from bench.round.bench_round import main
from bench.round.open_run import open_run, play_round
from bench.round.parts import PARTS, recorded
from bench.round.setups import SMALL
from bench.shared.device_time import now_on

ROOT = Path(__file__).resolve().parents[2]


# --- a round -----------------------------------------------------------------------------------------------------


def round_of(folder, instrumented):
    """(its lines of metrics, the adapters' weights, the phases' records) of a small round of the lab."""
    config = load_recipe("tiny", ["threads=1", *SMALL])
    with open_run(config, folder) as context:
        if instrumented:
            with recorded(context, now_on("cpu")) as phases:
                play_round(context, 1)
            model = context.learner.model
            flops = {n: step_flops(model, r.forward_tokens, r.loss_tokens, r.pairs, n) for n, r in phases.items()}
        else:
            play_round(context, 1)
            phases, flops = {}, {}
        file = context.checkpointer.run.path / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        weights = {name: w.clone() for name, w in context.learner.model.named_parameters() if ".lora_" in name}
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines], weights, phases, flops


def things_patched():
    """What the benchmark replaces outside the context, as it is now."""
    owners = {CLOCK: ("now",), round: ("run_phase",), torch.Tensor: ("backward",)}
    return {(owner, name): getattr(owner, name) for owner, names in owners.items() for name in names}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    before = things_patched()
    found = round_of(tmp_path_factory.mktemp("measured"), instrumented=True)
    assert all(value is before[key] for key, value in things_patched().items())
    return found


def test_the_round_is_the_same_bit_for_bit(measured, tmp_path):
    lines, weights, _, _ = round_of(tmp_path, instrumented=False)
    assert [line["phase"] for line in lines] == list(ROLES) and sum(line["grad_norm"] > 0 for line in lines) >= 2
    assert measured[0] == lines
    assert all(torch.equal(weight, measured[1][name]) for name, weight in weights.items())


def test_parts_of_every_phase_add_up(measured):
    _, _, phases, flops = measured
    assert list(phases) == list(ROLES)
    for name, record in phases.items():
        parts = record.parts()
        assert tuple(parts) == PARTS and tuple(record.learn_parts()) == STEP_PARTS
        for kind in ("wall", "processor"):
            whole = getattr(record.took, kind)
            assert sum(getattr(part, kind) for part in parts.values()) == pytest.approx(whole, rel=0.02)
        assert all(seconds.wall > 0 for part, seconds in parts.items() if part not in ("learn", "tool")), name
        assert (parts["learn"].wall > 0) == bool(record.steps[0].update.grad_norm)
        assert parts["rollout"].processor > 0.3 * record.took.processor > parts["rest"].processor
        assert record.tool_overlapped_s == 0 and (flops[name] > 0) == bool(record.steps[0].update.grad_norm)
    assert sum(record.parts()["tool"].wall for record in phases.values()) > 0


def test_the_work_is_what_the_metrics_say(measured):
    lines, _, phases, _ = measured
    for line in lines:
        record = phases[line["phase"]]
        assert record.forward_tokens == line.get("forward_tokens", 0)
        assert record.loss_tokens == line.get("loss_tokens", 0)
        assert (
            line["trajectories"] <= record.rollouts <= sum(reuse["requests"] for reuse in line["prefix_cache"].values())
        )
        assert record.pairs >= record.forward_tokens
    assert phases["grm"].rollouts == 2 * 3  # its own alone: no verdict is judged


def test_nothing_stays_patched(tmp_path):
    """Not on the context's own parts either, and not after an error."""
    config = load_recipe("tiny", ["threads=1", *SMALL])
    before = things_patched()
    with open_run(config, tmp_path) as context:
        rollout = context.rollout
        objects = (context, context.learner, context.learner.packed_model, context.prefix_cache,
                   context.checkpointer, context.observer, rollout.sampler, rollout.tool)  # fmt: skip
        own = [dict(vars(thing)) for thing in objects]
        with pytest.raises(ZeroDivisionError), recorded(context, now_on("cpu")):
            assert round.run_phase is not before[round, "run_phase"] and "_update" in vars(context.learner)
            raise ZeroDivisionError
        assert [dict(vars(thing)) for thing in objects] == own
    assert all(value is before[key] for key, value in things_patched().items())


# --- the script --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """The script with these words; what it prints. In this process: torch takes long to import."""

    def script(*words):
        monkeypatch.setattr(sys, "argv", ["bench_round.py", *words])
        main()
        return capsys.readouterr().out

    return script


def test_a_rehearsal_of_forced_lengths_plays_every_phase(run, tmp_path):
    """On random weights, which is what a GPU's shape has."""
    result = json.loads(run("--small", "--repeats", "1", "--shape", "qwen2.5-7b", "--out", str(tmp_path / "no.json")))
    assert result["rehearsal"] and not (tmp_path / "no.json").exists() and result["rounds"][0]["peak_mib"] > 0
    (one,) = result["rounds"]
    assert one["round"] == result["shown"] == 2 and [row["phase"] for row in one["phases"]] == list(ROLES)
    assert sum(row["wall_s"] for row in one["phases"]) == pytest.approx(one["wall_s"], rel=0.02)
    for row in one["phases"]:
        assert sum(part["wall_s"] for part in row["parts"].values()) == pytest.approx(row["wall_s"], rel=0.02)
        assert row["sampled_tokens_per_s"] > 0
    assert any(row["loss_tokens_per_s"] and 0 < row["matmul_utilization"] < 1 for row in one["phases"])
    table = list(round_lines(result))
    assert [line.split(" | ")[0] for line in table[2:6]] == ["| generator", "| grm", "| policy", "| **round**"]
    assert "round 2, whose time is the median of 1" in round_sentence(result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_number(run, tmp_path):
    said = run("--shape", "qwen2.5-7b", "--out", str(tmp_path / "round.json"))
    assert said == "bench_round: qwen2.5-7b not measured: no CUDA device; --small rehearses it on a CPU\n"
    assert not (tmp_path / "round.json").exists()
