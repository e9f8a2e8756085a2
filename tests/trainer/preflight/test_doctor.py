"""The doctor: what it says of this machine, of broken ones, and of samplers that are right and wrong."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from typer.testing import CliRunner

from aslfast.cli import doctor as cli_doctor
from aslfast.cli.main import app
from aslfast.config.roles import ROLES
from aslfast.models import lora
from aslfast.prompts.chat_template import Chat
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.sglang.sync_check import check_prompts
from aslfast.trainer.preflight import versions
from aslfast.trainer.preflight.check import CheckResult
from aslfast.trainer.preflight.sampler_check import check_opened, check_sampler
from tests.support.tiny_models import stir, tiny_model

MACHINE = [
    "python", "versions", "sglang", "devices", "kernels", "compiler", "core", "index", "memory", "disk",
]  # fmt: skip
SAMPLER_CHECKS = [*(f"log-probs: {role}" for role in ROLES), "base", "reuse"]
LEARNER_CHECKS = ["learner", "adapters"]


def by_name(lines):
    return {line.name: line for line in lines}


def test_this_machine_is_fit():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    said = json.loads(result.stdout)
    assert result.exit_code == 0 and said["ok"] is True and "sampler" not in said
    assert [line["name"] for line in said["lines"]] == MACHINE
    assert all(line.keys() == {"name", "ok", "detail", "suggestion"} for line in said["lines"])
    lines = {line["name"]: line for line in said["lines"]}
    assert lines["index"]["detail"] == "three passages built and searched"
    assert "torch on the cpu" in lines["kernels"]["detail"] or "triton on the cuda" in lines["kernels"]["detail"]


def test_broken_parts_are_told_and_stop_nothing():
    """Neither torch nor the core can be imported: a process of its own, since this one has both."""
    broken = "import sys; sys.modules['torch'] = sys.modules['aslfast._bm25'] = None"
    code = f"{broken}; from aslfast.cli.main import main; main()"
    command = [sys.executable, "-c", code, "doctor", "--sampler", "local", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["ok"] is False and said["sampler"] is None
    failed = {line["name"]: line["suggestion"] for line in said["lines"] if not line["ok"]}
    assert failed.keys() == {"devices", "kernels", "core", "index", "sampler"} and all(failed.values())
    assert failed["core"] == "the C++ core is not built: run make setup"


GOOD = {"torch": "2.13.0+cpu", "triton": "3.7.1", "transformers": "5.12.1", "peft": "0.21.2", "sglang": "0.5.21"}


@pytest.mark.parametrize(
    ("change", "name", "state", "suggestion"),
    [
        ({}, "versions", "ok", ""),
        ({}, "sglang", "ok", ""),
        ({"torch": "2.11.0+cu130", "triton": "3.6.0", "sglang": "0.5.12.post1"}, "sglang", "ok", ""),
        ({"peft": None}, "versions", "failed", "peft missing: run make setup"),
        ({"triton": "3.6.0"}, "versions", "warning", "torch 2.13 goes with triton 3.7"),
        ({"torch": "2.9.0"}, "versions", "warning", "not tested with this torch; tested are 2.11, 2.13, 2.14"),
        ({"sglang": None}, "sglang", "warning", versions.SGLANG_SETUP),
        ({"sglang": "0.5.17"}, "sglang", "warning", "this torch goes with sglang 0.5.18 to 0.5.21"),
        ({"transformers": "5.19.0"}, "sglang", "warning", "sglang 0.5.21 goes with transformers up to 5.12"),
    ],
)
def test_versions_that_fit_and_that_do_not(monkeypatch, change, name, state, suggestion):
    found = {**GOOD, **change}

    def version(package):
        if found[package] is None:
            raise PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(versions, "version", version)
    line = {"versions": versions.check_versions, "sglang": versions.check_sglang}[name]()
    assert (line.state, line.suggestion) == (state, suggestion)


def test_suggestions_are_printed(capsys):
    cli_doctor.print_results(
        [CheckResult("core", "failed", "not [built]", "run make setup"), CheckResult("disk", "ok", "9 GB")]
    )
    said = capsys.readouterr().out
    assert "not [built]" in said and "-> run make setup" in said and said.count("->") == 1


def test_an_unknown_sampler_is_refused():
    result = CliRunner().invoke(app, ["doctor", "--sampler", "vllm"])
    assert result.exit_code == 2 and result.stderr == "aslfast: error: --sampler vllm: use one of local, sglang\n"


@pytest.fixture
def folder(tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_the_local_sampler_over_any_model(folder):
    lines, report = check_sampler("local", str(folder))
    assert report and [line.name for line in lines] == SAMPLER_CHECKS + LEARNER_CHECKS
    assert {line.state for line in lines} == {"ok"}
    weights = (folder / "model.safetensors").stat().st_size
    assert report.base_shared and 0 < weights - report.base_bytes < 10_000  # the file's header
    assert all(0 < difference < 1e-4 for difference in report.logprob_difference.values())
    assert 0 < report.learner_difference < 1e-4
    layers = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj of 2 layers"
    assert by_name(lines)["adapters"].detail == f"on {layers}"
    assert report.reuse.cached_tokens == report.reuse.reusable_tokens > 48 and report.reuse.fraction == 1.0


def test_a_sampler_with_other_adapters_fails(tokenizer):
    """One that is sure to be wrong: it serves adapters from another seed."""
    served, trained = (lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=0) for _ in range(2))
    stir(served, seed=1)
    stir(trained, seed=2)
    sampler = LocalSampler(served, tokenizer, max_running_requests=4, max_context=256)
    lines, _ = check_opened(sampler, trained, check_prompts(Chat(tokenizer), "full", ROLES), [])
    failed = [line for line in lines if not line.ok]
    assert [line.name for line in failed] == SAMPLER_CHECKS[:3]
    assert all(line.suggestion.startswith("do not train with this sampler") for line in failed)


def test_what_cannot_be_opened_is_a_failed_line(tmp_path, monkeypatch):
    (line,), report = check_sampler("local", str(tmp_path / "none"))
    assert report is None and not line.ok and line.suggestion == "name a folder that holds one"
    monkeypatch.setitem(sys.modules, "sglang", None)
    (line,), _ = check_sampler("sglang", "lab")
    assert line.detail.endswith("SGLang is not installed") and line.suggestion.startswith("make setup-sglang")


def test_the_engine_over_the_lab():
    result = CliRunner().invoke(app, ["doctor", "--sampler", "sglang", "--json"])
    said = json.loads(result.stdout)
    assert result.exit_code == 0 and said["ok"] is True
    assert [line["name"] for line in said["lines"]] == MACHINE + SAMPLER_CHECKS + LEARNER_CHECKS
    report = said["sampler"]
    assert report["kind"] == "sglang" and report["base_shared"] is True and report["base_bytes"] == 3_940_864
    assert report["logprob_difference"].keys() == set(ROLES)
    assert all(0 < difference < 1e-4 for difference in report["logprob_difference"].values())
    assert report["reuse"]["fraction"] >= 0.95


def test_two_copies_are_a_warning(engine_lab):
    """The tests' engine does not share its base."""
    sampler, model, tokenizer = engine_lab
    told = ["base: two copies (sampler.share_base is false)"]
    lines, report = check_opened(sampler, model, check_prompts(Chat(tokenizer), "compact", ROLES), told)
    base = by_name(lines)["base"]
    assert not report.base_shared and base.state == "warning"
    assert base.detail == "base: two copies (sampler.share_base is false), 0.00394 GB each"
