"""The command line, from outside: what it prints, what it leaves behind, and how bad input ends.

The model is a small random Qwen2 with a BPE tokenizer of its own: it babbles, which is all that these tests need.
"""

import json
import os
import resource
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
import transformers

from aslfast import __version__
from aslfast.config import about_recipe, from_tree, load_recipe, recipe_names, toml
from aslfast.config.schema import SFT
from tests.support.cli.commands import call, refused

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PASSAGES = [
    ("a", '"Oslo"\nOslo is the capital of Norway.'),
    ("b", '"Aker"\nThe Aker is a river in Oslo.'),
    ("7", "No title"),
]
SMALL = ["--max-turns", "2", "--max-new-tokens", "12", "--threads", "1"]


def in_child(*args, most_bytes=None):
    """The command in a process of its own, whose files cannot grow beyond `most_bytes`: its own full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "aslfast", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit if most_bytes else None, timeout=120
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=control, initial_alphabet=sorted(alphabet), show_progress=False
    )
    core.train_from_iterator(["search and answer the question with a tool call"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    file.write_text("".join(json.dumps({"id": i, "contents": c}) + "\n" for i, c in PASSAGES))
    return file


@pytest.fixture(scope="session")
def index(corpus):
    folder = corpus.parent / "idx"
    assert call("index", "build", corpus, "--out", folder, "-q").exit_code == 0
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    file = tmp_path_factory.mktemp("questions") / "q.parquet"
    rows = [{"id": f"q{i}", "question": f"what is river {i}", "answers": ["Aker"], "hops": i % 2 + 1} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


# --- help, version, plan ---------------------------------------------------------------------------------------


def test_help_and_version():
    assert call("--version").stdout == f"aslfast {__version__}\n"
    for command in (
        "train", "recipes", "plan", "eval", "rollout", "report", "doctor", "index", "lab", "demos", "sft", "export",
    ):  # fmt: skip
        assert command in call("--help").stdout
        assert call(command, "--help").exit_code == 0


@pytest.mark.parametrize("recipe", ["tiny", "asl-qwen2.5-7b"])
def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(recipe, tmp_path):
    out = tmp_path / "run"
    result = call("train", "--recipe", recipe, "--dry-run", "--out", out, "--set", "policy.steps=3", "--seed", "9")
    assert result.exit_code == 0 and not out.exists()
    config = from_tree(toml.parse(result.stdout), "dry run")  # the summary stands in comments
    assert config == load_recipe(recipe, ["policy.steps=3"], 9)
    assert "#   policy: 3 optimizer steps of" in result.stdout


def test_dry_run_counts_the_trajectories():
    sets = ["rounds=2", "data.eval_count=50", "generator.steps=1", "generator.prompts_per_step=2"]
    sets += ["generator.group_size=3", "generator.self_checks=4", "generator.rollouts_per_question=5"]
    sets += ["grm.steps=2", "grm.prompts_per_step=3", "grm.group_size=4"]
    sets += ["policy.steps=5", "policy.prompts_per_step=6", "policy.group_size=7", "policy.verdicts_per_answer=2"]
    result = call("train", "--dry-run", "--json", *(part for one in sets for part in ("--set", one)))
    plan = json.loads(result.stdout)
    assert [phase["per_step"] for phase in plan["phases"]] == [2 * 3 * (1 + 4 + 2 * 5), 3 * 4, 6 * 7 * (1 + 2)]
    assert plan["round_trajectories"] == 90 + 2 * 12 + 5 * 126
    assert plan["total_trajectories"] == 2 * 744 + 3 * (50 + 50 + 50 + 25)  # 50 answers are judged, too


# --- recipes ---------------------------------------------------------------------------------------------------


def test_recipes_are_listed_with_what_they_are():
    listed = json.loads(call("recipes", "--json").stdout)["recipes"]
    assert [recipe["name"] for recipe in listed] == recipe_names()
    summaries = {recipe["name"]: recipe["summary"] for recipe in listed}
    assert all(text.endswith(".") and len(text) < 300 for text in summaries.values())
    assert summaries["search-r1"].startswith("Search-R1: the policy alone")
    told = {recipe["name"]: recipe for recipe in listed}["search-r1"]
    assert (told["paper"], told["roles"], told["needs"]) == ("arXiv 2503.09516", ["policy"], ["labels", "passages"])
    printed = call("recipes").stdout
    assert all(name in printed for name in recipe_names()) and "The whole loop in minutes" in printed


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_tells_whose_it_is_who_plays_and_what_for(recipe):
    about, config = about_recipe(recipe), load_recipe(recipe)
    assert about.line and about.flow and (about.paper or SFT in config.phases)
    assert set(about.rewards) <= set(about.roles) <= set(config.roles)
    assert about.rewards or SFT in config.phases
    explained = " ".join(line.strip("# ") for line in call("recipes", recipe).stdout.splitlines() if line[:1] == "#")
    told = [about.line, about.paper, *about.roles, *about.flow, *about.rewards.values(), *about.deviations]
    assert [text for text in told if " ".join(text.split()) not in explained] == []


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_is_printed_as_it_resolves(recipe, tmp_path):
    """The printed TOML is a recipe itself, the same one."""
    (tmp_path / f"{recipe}.toml").write_text(call("recipes", recipe).stdout)
    assert load_recipe(str(tmp_path / f"{recipe}.toml")) == load_recipe(recipe)
    as_json = json.loads(call("recipes", recipe, "--json").stdout)
    assert as_json["about"]["line"] == about_recipe(recipe).line
    assert as_json["recipe"] == recipe and as_json["rounds"] == load_recipe(recipe).rounds


def test_an_unknown_recipe_is_named():
    assert "did you mean 'tiny'?" in refused("recipes", "tinny")


# --- index -----------------------------------------------------------------------------------------------------


def test_index_build_and_search(corpus, tmp_path):
    built = call("index", "build", corpus, "--out", tmp_path / "idx", "--json")
    assert json.loads(built.stdout)["passages"] == 3
    found = json.loads(call("index", "search", tmp_path / "idx", "river in Oslo", "-k", "2", "--json").stdout)
    assert [hit["id"] for hit in found["hits"]] == ["b", "a"] and found["hits"][0]["title"] == "Aker"
    text = call("index", "search", tmp_path / "idx", "river in Oslo", "-k", "1").stdout
    assert text.startswith("1. Aker  (id b, score ") and "The Aker is a river in Oslo." in text
    assert call("index", "search", tmp_path / "idx", "zebra").stdout == "nothing found\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "contents": "x"}\nnot json\n', r"c.jsonl:2: not JSON"),
        ('{"id": "a", "contents": "x"}\n\n{"id": "b"}\n', r"c.jsonl:3: field 'contents' is missing"),
        ("", "no passages"),
        ('{"id": "a", "contents": "x"}\n{"id": "a", "contents": "y"}\n', r"c.jsonl:2: id 'a' is also that of"),
    ],
)
def test_bad_corpora_are_named_and_leave_nothing(content, message, tmp_path):
    (tmp_path / "c.jsonl").write_text(content)
    assert message in refused("index", "build", tmp_path / "c.jsonl", "--out", tmp_path / "idx", "-q")
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]


# --- rollout and eval ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["policy", "grm", "generator"])
def test_rollout_writes_what_a_person_can_read(role, model, index, questions, tmp_path):
    out = tmp_path / "t.parquet"
    args = [
        "--model",
        model,
        "--index",
        index,
        "--data",
        questions,
        "--out",
        out,
        "--limit",
        "4",
        "--role",
        role,
        *SMALL,
    ]
    result = call("rollout", *args)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 4 and {row["role"] for row in rows} == {role}
    assert all(sum(row["loss_mask"]) > 0 and len(row["token_ids"]) == len(row["logprobs"]) for row in rows)
    assert result.stdout.startswith("=== prompt ===\n") and "=== model ===" in result.stdout
    assert f"{out}: 4 trajectories (" in result.stdout and "tokens/s" in result.stdout
    assert "what is river 0" in rows[0]["conversation"]
    assert "rollout: 4 trajectories" in result.stderr  # no terminal: a plain line instead of a bar


def test_rollouts_of_one_seed_are_equal_and_of_another_differ(model, index, questions, tmp_path):
    def tokens(name, seed):
        args = ["--model", model, "--index", index, "--data", questions, "--out", tmp_path / name, "--seed", seed]
        assert call("rollout", *args, *SMALL, "-q").exit_code == 0
        return pq.read_table(tmp_path / name)["token_ids"].to_pylist()

    first = tokens("a.parquet", 1)
    assert first == tokens("b.parquet", 1) and first != tokens("c.parquet", 2)


def test_eval_prints_one_json_object(model, index, questions, tmp_path):
    """Of a model with a short context, in which its turns are shortened."""
    shutil.copytree(model, tmp_path / "short")
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    args = [tmp_path / "short", "--data", questions, "--index", index, "--limit", "5", "--prompts", "compact"]
    result = call("eval", *args, "--json", "-q")
    scores = json.loads(result.stdout)
    assert result.stderr == "" and scores["n_eval"] == 5 and sum(scores["stops"].values()) == 5
    assert scores["policy_accuracy"] == 0.0 and {h: s["n"] for h, s in scores["by_hops"].items()} == {"1": 3, "2": 2}
    em, searches = (scores["metrics"][name] for name in ("em", "searches"))
    assert em["value"] == em["low"] == 0.0 and 0.3 < em["high"] < 0.5  # Wilson's for 0 of 5
    assert searches["low"] <= searches["value"] == scores["searches"] <= searches["high"]


def test_eval_of_two_is_paired(model, run, index, questions, tmp_path):
    """The same model against itself differs nowhere, though the run's own seed is another; its table shows both."""
    out, _ = run
    rest = ["--data", questions, "--index", index, "--prompts", "compact", "-q"]
    result = json.loads(call("eval", model, model, *rest, "--json").stdout)
    assert result["a"]["n_eval"] == 6 and result["a"]["stops"] == result["b"]["stops"]
    assert {*result["difference"]} == {"em", "sub_em", "cover_em", "f1", "searches", "em_1_hops", "em_2_hops"}
    for difference in result["difference"].values():
        assert difference == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    printed = call("eval", out, model, *rest)
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert lines[:3] == [f"A: {out}, no adapter", f"B: {model}, no adapter", f"6 questions of {questions}, seed 3"]
    assert "B - A, points" in printed.stdout and "  2 hops (n = 3)" in printed.stdout
    assert "neither a run" in refused("eval", model, tmp_path / "none", *rest)


def test_what_cannot_be_played_is_named(model, index, questions, tmp_path):
    no_answers = tmp_path / "n.parquet"
    pq.write_table(pa.table({"question": ["what?"], "note": ["x"]}), no_answers)
    rest = ["--data", questions, "--index", index]
    assert "nowhere: neither a run (config.toml) nor a model" in refused("eval", tmp_path / "nowhere", *rest)
    assert "field 'answers' is missing" in refused("eval", model, "--data", no_answers, "--index", index)
    assert "no such question file" in refused("eval", model, "--data", tmp_path / "none.parquet", "--index", index)
    assert "is not an index" in refused("eval", model, "--data", questions, "--index", tmp_path)
    assert "--prompts: no folder 'long'" in refused("eval", model, *rest, "--prompts", "long")
    assert "no such role" in refused(
        "rollout", "--model", model, *rest, "--out", tmp_path / "t.parquet", "--role", "judge"
    )
    assert "already exists" in refused("rollout", "--model", model, *rest, "--out", no_answers)
    assert "--max-context" in refused(
        "rollout", "--model", model, *rest, "--out", tmp_path / "t.parquet", "--max-context", "64", "-q"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["n.parquet"]


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_named(damage, model, index, questions, tmp_path):
    for file in model.iterdir():
        if file.name != damage and (damage != "tokenizer.json" or "tokenizer" not in file.name):
            os.link(file, tmp_path / file.name)
    if damage != "tokenizer.json":
        (tmp_path / damage).write_bytes((model / damage).read_bytes()[:100])
    assert str(tmp_path) in refused("eval", tmp_path, "--data", questions, "--index", index)


# --- train -----------------------------------------------------------------------------------------------------

QUICK = [
    "sampler.max_new_tokens=4",
    "rounds=1",
    "data.eval_count=4",
    "generator.steps=1",
    "generator.prompts_per_step=2",
    "threads=1",
]


def quick(model):
    return [part for key in (f"model.path={model}", *QUICK) for part in ("--set", key)]


@pytest.fixture(scope="session")
def run(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    result = in_child("train", "--recipe", "tiny", "--out", out, "--seed", "3", *quick(model), "--json")
    assert result.returncode == 0, result.stderr
    return out, result


def test_train_prints_json_alone_on_stdout_and_progress_on_stderr(run):
    out, result = run
    printed = json.loads(result.stdout)
    assert [line["round"] for line in printed["rounds"]] == [0, 1]
    assert "round 0/1: policy accuracy 0.0%" in result.stderr and "tokens/s" in result.stderr
    assert "Writing model shards" not in result.stderr and "Warning" not in result.stderr
    names = {"config.toml", "metrics.jsonl", "rounds.jsonl", "trajectories", "adapters", "lab", "curves.png"}
    names |= {"ledger.sqlite", "run.lock"}
    assert {p.name for p in out.iterdir()} == names


def test_eval_of_a_run_repeats_its_last_measurement(run):
    out, _ = run
    result = call(
        "eval", out, "--data", out / "lab" / "heldout.parquet", "--index", out / "lab" / "heldout.idx", "--json", "-q"
    )
    last = json.loads((out / "rounds.jsonl").read_text().splitlines()[-1])
    scores = json.loads(result.stdout)
    assert scores["seed"] == 3
    assert {k: scores[k] for k in ("policy_accuracy", "stops", "f1")} == {
        k: last[k] for k in ("policy_accuracy", "stops", "f1")
    }


def test_report_prints_the_table_and_draws_again(run):
    out, _ = run
    (out / "curves.png").unlink()
    result = call("report", out)
    assert "+0.0 points" in result.stdout and (out / "curves.png").exists()


def test_bad_settings_are_named_before_anything_is_made(model, tmp_path, run):
    out = tmp_path / "run"
    start = ["train", "--recipe", "tiny", "--out", out]
    assert "unknown key 'policy.stepz'; did you mean 'policy.steps'?" in refused(*start, "--set", "policy.stepz=3")
    assert "write it as key=value" in refused(*start, "--set", "policy.steps")
    assert "policy.steps is 'many'" in refused(*start, "--set", "policy.steps=many")
    assert "did you mean 'tiny'?" in refused("train", "--recipe", "tinny", "--out", out)
    assert "nowhere: no model here" in refused(*start, "--set", f"model.path={tmp_path / 'nowhere'}", "-q")
    assert "data.index is not set" in refused("train", "--recipe", "asl-qwen2.5-7b", "--out", out, "-q")
    assert "--out is missing" in refused("train")
    assert not out.exists()
    assert "already exists and is not empty" in refused("train", "--recipe", "tiny", "--out", run[0])


# --- a full disk -----------------------------------------------------------------------------------------------


def full_disk(*args, most_bytes):
    result = in_child(*args, "-q", most_bytes=most_bytes)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1 and "File too large" in result.stderr
    return result.stderr


def test_a_full_disk_leaves_nothing_half_written(model, index, questions, tmp_path):
    big = tmp_path / "c.jsonl"
    big.write_text("".join(json.dumps({"id": i, "contents": f"word{i} " * 9}) + "\n" for i in range(2000)))
    full_disk("index", "build", big, "--out", tmp_path / "idx", most_bytes=20_000)
    out = tmp_path / "t.parquet"
    full_disk("rollout", "--model", model, "--index", index, "--data", questions, "--out", out, *SMALL, most_bytes=2000)
    full_disk("train", "--recipe", "tiny", "--out", tmp_path / "run", *quick(model), most_bytes=20_000)
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]
