"""`aslfast demos`, `sft`, `export` and rejection sampling, one after the other as a person would use them."""

import json

import pyarrow.parquet as pq
import pytest

from aslfast.data.qa_dataset import write_questions
from aslfast.files.shipped import LAB_BASE
from aslfast.index.bm25 import BM25Index
from aslfast.lab.world import World
from aslfast.trainer.lab_datasets import lab_questions
from tests.support.cli.commands import as_json, call, refused

SHORT = ["--batch-size", "4", "--epochs", "1", "--threads", "1", "--rank", "16", "--alpha", "32", "--lr", "0.001"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Questions of one hop about a world of the lab, and its index: (folder, index, questions)."""
    folder, made = tmp_path_factory.mktemp("world"), World.make(0, "train")
    BM25Index.build(made.passages(), folder / "idx", threads=1)
    questions = [question for question in lab_questions(made, 0, 60) if question.hops == 1]
    write_questions(folder / "q.parquet", questions[:12])
    return folder


@pytest.fixture(scope="module")
def demos(world):
    args = ["--model", "lab", "--data", world / "q.parquet", "--index", world / "idx", "--out", world / "d.parquet"]
    return world / "d.parquet", as_json("demos", *args, "-q")


@pytest.fixture(scope="module")
def adapter(world, demos):
    args = ["--model", "lab", "--data", demos[0], "--out", world / "a", *SHORT]
    return world / "a", as_json("sft", *args, "-q")


def test_demos_are_written_for_every_role(demos):
    file, summary = demos
    rows = pq.read_table(file).to_pylist()
    assert summary["questions"] == 12 and set(summary["demonstrations"]) == {"policy", "grm", "generator"}
    assert len(rows) == sum(summary["demonstrations"].values())
    assert {row["stop"] for row in rows} == {"finished"} and all(sum(row["loss_mask"]) for row in rows)
    assert summary["tokens"] == sum(len(row["token_ids"]) for row in rows)


def test_reading_practice_is_written_as_conversations(world):
    file = world / "reading.jsonl"
    args = ["--model", "lab", "--data", world / "q.parquet", "--index", world / "idx", "--role", "reading"]
    summary = as_json("demos", *args, "--out", file, "-q")
    conversations = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    assert summary["demonstrations"] == {"reading": len(conversations)} and summary["practised"] > 0
    assert sum(len(messages) // 2 for messages in conversations) == summary["practised"] <= 12
    assert call("demos", *args, "--out", file).exit_code == 2  # what is there stays
    said = call("demos", *args, "--out", world / "again.jsonl").stdout
    assert f"{len(conversations)} of reading, from 12 questions; {summary['practised']} answers" in said
    learnt = as_json("sft", "--model", "lab", "--data", file, "--out", world / "read", *SHORT, "-q")
    assert learnt["rows"] + learnt["dev_rows"] == len(conversations)


def test_sft_tells_how_it_went(adapter):
    _, summary = adapter
    first, last = summary["epochs"]
    assert first["step"] == 0 and last["step"] == summary["steps"] >= 2
    assert last["dev_loss"] < first["dev_loss"] and 0 < last["dev_token_accuracy"] <= 1
    assert summary["tokens_per_s"] > 0 and summary["left_out"] == {}


def test_sft_prints_a_table_and_its_progress(world, demos):
    result = call("sft", "--model", "lab", "--data", demos[0], "--out", world / "b", *SHORT, "--role", "grm")
    assert result.exit_code == 0, result.output
    assert "dev token accuracy" in result.stdout and f"{world / 'b'}: adapter of grm from" in result.stdout
    assert "epoch 0: dev loss" in result.stderr and "sft: " in result.stderr and "tokens/s" in result.stderr
    again = call("sft", "--resume", world / "b", "-q")
    assert again.exit_code == 0 and "dev token accuracy" in again.stdout


def test_an_interrupted_one_says_how_to_go_on(world, demos, monkeypatch):
    from aslfast.cli.adapters.sft import SftProgress

    def stop(*_):
        raise KeyboardInterrupt

    args = ["sft", "--model", "lab", "--data", demos[0], "--out", world / "c", *SHORT, "-q"]
    with monkeypatch.context() as patched:
        patched.setattr(SftProgress, "step", stop)
        result = call(*args)
    assert (
        result.exit_code == 130 and result.stderr == f"aslfast: stopped; go on with: aslfast sft --resume {world}/c\n"
    )
    assert as_json("sft", "--resume", world / "c", "-q")["steps"] >= 2


def test_a_run_starts_from_what_sft_made(world, adapter):
    """As roles.policy.init_adapter of the recipe for the same base."""
    sets = ["rounds=0", "threads=1", "data.lab=false", "data.eval_count=4", f"roles.policy.init_adapter={adapter[0]}"]
    sets += [f"data.index={world}/idx", f"data.eval_questions={world}/q.parquet", "data.topics=general"]
    sets += ["monitor.judge_probe=0"]
    args = [part for one in sets for part in ("--set", one)]
    result = call("train", "--recipe", "tiny", "--out", world / "run", *args, "-q", "--json")
    assert result.exit_code == 0, result.output
    folders = adapter[0], world / "run" / "adapters" / "policy" / "v0000"
    assert len({(folder / "adapter_model.safetensors").read_bytes() for folder in folders}) == 1
    told = as_json("export", world / "run", "--role", "policy", "--version", "0", "--out", world / "peft")
    assert told["kind"] == "adapter" and "- version: 0\n" in (world / "peft" / "README.md").read_text()
    assert "versions: 0" in refused("export", world / "run", "--version", "3", "--out", world / "x")


def test_a_merged_model_is_evaluated_like_any_other(world, adapter):
    told = as_json("export", adapter[0], "--merge", "--out", world / "merged")
    assert told["kind"] == "model" and told["base"] == str(LAB_BASE)
    args = ["--data", world / "q.parquet", "--index", world / "idx", "--limit", "4", "--prompts", "compact", "-q"]
    scores = as_json("eval", world / "merged", *args)
    assert scores["n_eval"] == 4 and scores["adapter_version"] == 0


def test_the_best_of_several_samples_feeds_sft(world):
    """The same questions, four samples each: one row a kept question, with its reward; sft reads it."""
    args = ["--model", "lab", "--data", world / "q.parquet", "--index", world / "idx", "-q", "--samples", "4"]
    everything = as_json("rollout", *args, "--out", world / "all.parquet")
    kept = as_json("rollout", *args, "--out", world / "best.parquet", "--keep", "best")
    rows = pq.read_table(world / "best.parquet").to_pylist()
    assert everything["trajectories"] == kept["trajectories"] == 48
    assert 0 < kept["kept"] == len(rows) <= 12 and len({row["question"] for row in rows}) == len(rows)
    assert all(0 < row["reward"] <= 1 for row in rows)
    sampled = pq.read_table(world / "all.parquet")["token_ids"].to_pylist()
    assert all(row["token_ids"] in sampled for row in rows)
    assert len({tuple(ids) for ids in sampled[:4]}) > 1  # samples of a question differ
    summary = as_json("sft", "--model", "lab", "--data", world / "best.parquet", "--out", world / "r", *SHORT, "-q")
    assert summary["rows"] + summary["dev_rows"] == len(rows)


def test_what_cannot_be_done_is_named(world, demos, adapter, tmp_path):
    data = ["--data", demos[0]]
    assert "--model is missing" in refused("sft", *data, "--out", tmp_path / "a")
    assert "--lr does not go with --resume" in refused("sft", "--resume", adapter[0], "--lr", "1")
    new = ["sft", "--model", "lab", *data, "--out", tmp_path / "a"]
    assert "Invalid value for '--lr'" in refused(*new, "--lr", "nan")
    assert "--lr is 0.0; it must be above 0" in refused(*new, "--lr", "0")
    assert "--rank and --alpha are those of" in refused(*new, "--init-adapter", adapter[0], "--rank", "8")
    assert "no model here" in refused("sft", "--model", tmp_path / "m", *data, "--out", tmp_path / "a", "-q")
    assert "already exists and is not empty" in refused("sft", "--model", "lab", *data, "--out", adapter[0], "-q")
    rest = ["--model", "lab", "--data", world / "q.parquet", "--index", world / "idx"]
    assert "no such role" in refused("demos", *rest, "--out", tmp_path / "d", "--role", "judge")
    assert "already exists" in refused("demos", *rest, "--out", demos[0])
    assert "no such choice; use one of best, correct" in refused(
        "rollout", *rest, "--out", tmp_path / "t", "--keep", "worst"
    )
    assert "only answers of the policy" in refused(
        "rollout", *rest, "--out", tmp_path / "t", "--keep", "best", "--role", "grm"
    )
    assert "neither a run (config.toml) nor an adapter" in refused("export", tmp_path, "--out", tmp_path / "x")
    assert "leave --version out" in refused("export", adapter[0], "--version", "1", "--out", tmp_path / "x")
    assert not list(tmp_path.iterdir())
