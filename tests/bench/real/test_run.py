"""A real run in small, on the lab: whole, killed and gone on with, from given adapters; its adapters evaluate."""

import json
import shutil
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from aslfast.data.qa_dataset import read_questions
from aslfast.errors import UserError
from aslfast.files.jsonl import read_lines, rewrite_lines
from aslfast.rounds.records import TIMED
from aslfast.trainer.demos.make import read_labelled
from bench.real import kept_dtype
from bench.real_run import played
from bench.real_run.folder import RunFolder, newest_adapter
from bench.real_run.pipeline import read_record
from bench.real_run.settings import cold_config, rule_config
from bench.real_run.stages import RealRun, check_inputs
from tests.support.cli.commands import as_json
from tests.support.killed_runs import started
from tests.support.real_run.small import SIZE, go_real, small_settings, write_data

KILLED_AT = (  # as soon as this file is there
    "evaluations/untouched-dev/policy-000.jsonl", "cold-start/policy/metrics.jsonl",
    "cold-start/grm/adapter_config.json", "rule/steps", "asl/rounds.jsonl", "asl/metrics.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run with its evaluation on test, never killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(small_settings(data), out, test=True)
    return out


def finish(settings, out, test):
    process = started(go_real, settings, out, test)
    process.join(300)
    assert process.exitcode == 0


def figures(out):
    """All that the run is for: the result without times and stamps, and the adapters."""
    result = json.loads((out / "real.json").read_text())
    kept = {key: result[key] for key in ("split", "ceilings", "evaluations", "differences", "curves", "examples")}
    adapters = {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "adapters").rglob("*.safetensors"))}
    return without_times(kept), adapters


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMED}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_every_stage_leaves_its_figures(whole, data):
    result = json.loads((whole / "real.json").read_text())
    stages = RealRun(small_settings(data), RunFolder(whole), test=True).stages()
    assert list(result["stages"]) == [stage.name for stage in stages]
    assert all(record["done"] and record["peak_bytes"] > 1e7 for record in result["stages"].values())
    for split, n in (("dev", SIZE.dev_questions), ("test", SIZE.test_questions)):
        of = result["evaluations"][split]
        assert [e["policy"]["n"] for e in of.values()] == [n] * 4 and [name for name in of if "judge" in of[name]] == [
            "cold-start",
            "asl",
        ]
        assert len({e["policy"]["entropy"] for e in of.values()}) == 4  # each plays its own adapter
        assert of["asl"]["judge"]["n"] == 2 * SIZE.judged_questions
        assert of["asl"]["probe"]["n_judge_probe"] == min(n, SIZE.judged_questions)
        assert result["ceilings"][split]["key words"]["value"] == 1.0  # the world's questions name their passage
    curves = result["curves"]
    phases = [line["phase"] for name in ("rule", "asl") for line in curves[name]["metrics"]]
    assert phases == ["policy", "generator", "grm", "policy"]
    assert all(line["loss"] > 0 for role in curves["cold-start"].values() for line in role["metrics"])
    assert [line["evaluation"] for line in result["test_touched"]] == ["untouched", "cold-start", "rule", "asl"]
    assert all("=== model ===" in example["rule"]["conversation"] for example in result["examples"])
    shipped = [*whole.glob("adapters/*/config.toml"), *whole.glob("adapters/**/adapter_config.json")]
    told = "".join(file.read_text() for file in [whole / "real.json", *shipped])
    assert result["settings"]["data"] == data.name and str(data.parent) not in told  # no folder of this machine


def test_the_rows_of_dev_and_test_are_no_rows_of_train(whole):
    ids = {name: {q.id for q in read_questions(whole / f"{name}.parquet")} for name in ("train", "dev", "test")}
    assert not ids["train"] & ids["dev"] and not ids["train"] & ids["test"] and not ids["dev"] & ids["test"]
    for split in ("dev", "test"):
        rows = played.read_rows(whole / "evaluations" / f"rule-{split}", played.POLICY)
        assert rows and {row["id"] for row in rows} <= ids[split]
    for role in ("policy", "grm", "generator"):
        learnt = pq.read_table(whole / "demos" / f"{role}.parquet").column("task_id").to_pylist()
        assert learnt and all(set(name.split("-")) & ids["train"] for name in learnt)


def test_killed_at_any_moment_it_ends_with_the_same_figures(whole, data, tmp_path):
    settings, out = small_settings(data), tmp_path / "run"
    for name in KILLED_AT:
        process = started(go_real, settings, out, False)
        until = time.monotonic() + 120
        while not (out / name).exists():
            assert process.is_alive() and time.monotonic() < until, name
            time.sleep(0.002)
        process.kill()
        process.join()
    finish(settings, out, test=True)
    assert figures(out) == figures(whole)
    assert sum(read_record(out / "stages", stage).attempts for stage in ("sft-policy", "rule", "asl")) > 3


def test_a_run_that_is_done_does_nothing_again(whole, data, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = {str(p): p.stat().st_mtime_ns for p in sorted((out / "stages").glob("*.json"))}
    go_real(small_settings(data), out, test=True)
    assert {str(p): p.stat().st_mtime_ns for p in sorted((out / "stages").glob("*.json"))} == before
    assert figures(out) == figures(whole)


def test_another_request_in_the_same_folder_is_refused(whole, data):
    with pytest.raises(UserError, match="started with seed 0, not 1"):
        small_settings(data, seed=1).keep(RunFolder(whole))
    with pytest.raises(UserError, match=r"no passages\.parquet there"):
        check_inputs(small_settings(data.parent))
    with pytest.raises(UserError, match="no adapter in adapters/generator"):
        check_inputs(small_settings(data, cold_start=str(whole / "rule")))
    assert kept_dtype(RunFolder(whole), "auto") == "float32"
    with pytest.raises(UserError, match="--dtype is 'float8'"):
        kept_dtype(RunFolder(whole), "float8")


def test_eval_reads_the_adapters_in_bfloat16(whole, data):
    """On the same questions with the same seeds: the same figures as with the weights in float32, or nearly."""
    folder, full = whole / "adapters" / "rule", newest_adapter(whole / "rule", "policy")
    rounded = load_file(newest_adapter(folder, "policy") / "adapter_model.safetensors")
    for name, weight in load_file(full / "adapter_model.safetensors").items():
        assert rounded[name].dtype == torch.bfloat16 and torch.equal(rounded[name], weight.to(torch.bfloat16))
    source = "--data", whole / "dev.parquet", "--index", whole / "wiki.idx", "--limit", SIZE.dev_questions
    told = as_json("eval", folder, *source)
    assert told["adapter_version"] == 1 and told["n_eval"] == SIZE.dev_questions
    settings, place = small_settings(data), RunFolder(whole)
    unrounded = json.loads((whole / "real.json").read_text())["evaluations"]["dev"]["rule"]["policy"]
    assert told["searches"] == pytest.approx(unrounded["searches"], abs=0.5)
    evaluated, trained = cold_config(settings, place), rule_config(settings, place, full)
    assert evaluated.temperature_of("policy") == trained.temperature_of("policy") == 1.0


def test_it_starts_from_given_adapters(whole, data, tmp_path):
    """From the same weights, but for their rounding; no demonstrations, no fine-tuning."""
    settings = small_settings(data, cold_start=str(whole / "adapters" / "cold-start"))
    finish(settings, tmp_path / "run", test=False)
    result = json.loads((tmp_path / "run" / "real.json").read_text())
    assert not any(name.startswith(("sft", "demos")) for name in result["stages"])
    assert result["curves"]["cold-start"] == {} and len(result["curves"]["rule"]["metrics"]) == 1
    before, after = (
        newest_adapter(run / "adapters" / "cold-start", "grm") / "adapter_model.safetensors"
        for run in (whole, tmp_path / "run")
    )
    assert before.read_bytes() == after.read_bytes()


def test_an_evaluation_goes_on_with_its_chunks(whole, data, tmp_path, monkeypatch):
    """Two questions at a time; those that are written are not played, the others come out the same."""
    monkeypatch.setattr(played, "CHUNK", 2)
    folder = RunFolder(whole)
    config, asked = cold_config(small_settings(data), folder), read_labelled(folder.split("dev"), 5)
    adapters = {role: folder.cold_start(role) for role in ("policy", "grm")}
    played.evaluate(config, adapters, asked, 2, tmp_path / "one", "one")
    parts = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert parts == [
        *(f"judge-00{i}.jsonl" for i in range(2)), *(f"policy-00{i}.jsonl" for i in range(3)),
        *(name for name in parts if name.startswith("probe")),
    ]  # fmt: skip
    (tmp_path / "two").mkdir()
    first = read_lines(tmp_path / "one" / "policy-000.jsonl")
    rewrite_lines(tmp_path / "two" / "policy-000.jsonl", [{**row, "tokens": 999} for row in first])
    shutil.copy(tmp_path / "one" / "judge-001.jsonl", tmp_path / "two")
    played.evaluate(config, adapters, asked, 2, tmp_path / "two", "two")
    assert [row["tokens"] for row in played.read_rows(tmp_path / "two", played.POLICY)][:2] == [999, 999]
    others = [name for name in parts if name != "policy-000.jsonl"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in others)
