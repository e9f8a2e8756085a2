"""What a resume takes of an edited config.toml and of exchanged files: what may change, and nothing else."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from aslfast.checkpoint.ledger import Ledger
from aslfast.checkpoint.run_dir import RunDir, read_run_config
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.config.changes import MAY_CHANGE, MAY_CHANGE_BITS, config_changes, settings
from aslfast.config.schedules.table import ScheduleConfig
from aslfast.data.qa_dataset import write_questions
from aslfast.errors import UserError
from aslfast.lab.world import World
from aslfast.rounds.records import Observer
from aslfast.trainer import train
from aslfast.trainer.lab_datasets import lab_questions
from aslfast.trainer.provenance import places
from tests.support.killed_runs import lab_config

LABELLED = ["grm.gold_label_fraction=0.5", "generator.steps=1", "policy.steps=1", "monitor.judge_probe=0"]


class Told(Observer):
    """Keeps the warnings; with `stop_at`, breaks off after the evaluation of that round."""

    def __init__(self, stop_at=None):
        self.stop_at, self.warnings = stop_at, []

    def warning(self, text):
        self.warnings.append(text)

    def evaluated(self, record):
        if record.round == self.stop_at:
            raise InterruptedError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_questions(folder / "labelled.parquet", lab_questions(World.make(0, "train"), 1, 20))
    write_questions(folder / "other.parquet", lab_questions(World.make(0, "train"), 2, 20))
    return lab_config(folder, [*LABELLED, f"data.labelled={folder}/labelled.parquet"])


@pytest.fixture(scope="module")
def begun(config, tmp_path_factory):
    """A run that broke off after round 0."""
    run = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(InterruptedError):
        train.train(config, run, Told(stop_at=0))
    return run


@pytest.fixture
def edited(begun, tmp_path):
    """Copy the run with other values in its config.toml."""

    def edit(**values):
        run = shutil.copytree(begun, tmp_path / "run", dirs_exist_ok=True)
        tree = toml.parse((run / "config.toml").read_text())
        for key, value in values.items():
            *tables, last = key.split("__")
            table = tree
            for name in tables:
                table = table[name]
            table[last] = value
        (run / "config.toml").write_text(to_toml(from_tree(tree, "edited")))
        return run

    return edit


def recorded(run):
    """The configurations in the ledger, in the order of their commits."""
    ledger = Ledger(run / "ledger.sqlite")
    found = [commit.provenance.config for commit in ledger.read() if commit.provenance]
    ledger.close()
    return [from_tree(toml.parse(text), "ledger") for text in found]


REFUSED = {
    "learner.learning_rate": 0.5,
    "lora.alpha": 1.0,
    "lora.rank": 3,
    "seed": 7,
    "model.dtype": "bfloat16",
    "grm.folds": 2,
    "policy.steps": 9,
    "model.prompt_date": "2001-01-01",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_makes_another_run_is_refused_by_name(edited, key):
    run = edited(**{key.replace(".", "__"): REFUSED[key]})
    before = (run / "ledger.sqlite").read_bytes()
    with pytest.raises(UserError) as refused:
        train.resume(run)
    old = settings(recorded(run)[0])[key]
    said = f"{run}/config.toml: {key} is {REFUSED[key]!r} (it was {old!r}); set it back, or start a new run with --out"
    assert str(refused.value) == said
    assert (run / "ledger.sqlite").read_bytes() == before


def test_what_may_change_is_taken_and_recorded_once(edited, config):
    run, told = edited(rounds=2, threads=2, monitor__max_gap=0.5), Told(stop_at=1)
    with pytest.raises(InterruptedError):
        train.resume(run, told)
    taken = "rounds 2 (it was 1), threads 2 (it was 1), monitor.max_gap 0.5 (it was 0.1)"
    bits = "the run goes on, but not bit for bit as it would have"
    assert told.warnings[0] == f"{run}/config.toml: {taken}; {bits}"
    first, second = recorded(run)
    assert dataclasses.replace(first, model=config.model) == config and second == read_run_config(run)
    again = Told(stop_at=2)
    with pytest.raises(InterruptedError):  # not told again, and all of the second round is played
        train.resume(run, again)
    assert not any("config.toml" in text for text in again.warnings)
    assert [json.loads(line)["round"] for line in (run / "rounds.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert len(recorded(run)) == 2


def test_a_finished_run_takes_no_more_rounds(edited):
    run = edited()
    train.resume(run)
    config = read_run_config(run)
    (run / "config.toml").write_text(to_toml(dataclasses.replace(config, rounds=2)))
    with pytest.raises(UserError, match=r"all rounds .* are done.*start a new run from its adapters"):
        train.resume(run)


def test_a_run_of_an_older_version_is_resumed_as_before(edited):
    """Its ledger holds no configuration; the first commit of the resume adds it."""
    run = edited(learner__learning_rate=0.5)
    ledger = Ledger(run / "ledger.sqlite")
    commits = ledger.read()
    ledger.close()
    (run / "ledger.sqlite").unlink()
    ledger = Ledger(run / "ledger.sqlite")
    for commit in commits:
        old = commit.provenance and dataclasses.replace(
            commit.provenance,
            config="",
            inputs={key: mark for key, mark in commit.provenance.inputs.items() if key != "data.labelled"},
        )
        ledger.append(dataclasses.replace(commit, provenance=old))
    ledger.close()
    train.resume(run)
    ledger = Ledger(run / "ledger.sqlite")
    before, after = [commit.provenance for commit in ledger.read() if commit.provenance]
    ledger.close()
    assert not before.config and "learning_rate = 0.5" in after.config and "data.labelled" in after.inputs


@pytest.mark.parametrize("key", ["labelled", "topics", "eval_questions", "index"])
def test_another_file_is_refused_and_the_same_one_elsewhere_is_not(edited, config, key, tmp_path):
    """Fingerprints are of contents: a file may move, and config.toml with it."""
    place = getattr(config.data, key)
    copy = shutil.copytree if key == "index" else shutil.copyfile
    copy(place, tmp_path / "same")
    run, told = edited(**{f"data__{key}": str(tmp_path / "same")}), Told(stop_at=1)
    with pytest.raises(InterruptedError):
        train.resume(run, told)
    assert f"data.{key} '{tmp_path}/same' (it was '{place}')" in told.warnings[0]
    run = edited(**{f"data__{key}": str(tmp_path / "same")})
    if key == "index":
        (tmp_path / "same" / "more").touch()
    elif key == "topics":
        (tmp_path / "same").write_text("Another topic")
    else:
        shutil.copyfile(config.data.labelled.replace("labelled", "other"), tmp_path / "same")
    with pytest.raises(UserError, match=rf"data\.{key}: not what it was when the run started"):
        train.resume(run)


def test_every_key_that_names_a_file_has_a_fingerprint():
    """All texts of a configuration that are neither a choice nor a name; a new one has to be placed here or there."""
    no_places = {"recipe", "algorithm", "model.prompt_date", "sft.role"}
    texts = dict.fromkeys(_free_texts(RunConfig), "somewhere") | dict.fromkeys(no_places, "")
    config = RunConfig()
    for key, value in texts.items():
        config = _replaced(config, key.split("."), value)
    config = _replaced(config, ["policy", "question_source"], "labelled")
    config = _replaced(config, ["phases"], ("sft", *config.phases))
    assert set(places(config)) == set(texts) - no_places
    assert not places(_replaced(config, ["data", "lab"], True)).keys() & {key for key in texts if key[:5] == "data."}


def _free_texts(cls, prefix=""):
    for item in dataclasses.fields(cls):
        inner = getattr(cls(), item.name)
        if dataclasses.is_dataclass(inner):
            yield from _free_texts(type(inner), f"{prefix}{item.name}.")
        elif isinstance(inner, str) and item.type == "str" and "choices" not in item.metadata:
            yield prefix + item.name


def _replaced(table, path, value):
    name, *rest = path
    return dataclasses.replace(table, **{name: _replaced(getattr(table, name), rest, value) if rest else value})


def test_the_lists_of_what_may_change_name_keys():
    for pattern in (*MAY_CHANGE, *MAY_CHANGE_BITS):
        parts = pattern.replace("roles.*", "roles.policy").replace("*", "").rstrip(".")
        assert any(key.startswith(parts) for key in settings(RunConfig())), pattern


def test_changes_are_told_by_key():
    config = RunConfig()
    other = _replaced(_replaced(config, ["learner", "learning_rate"], 0.1), ["rounds"], 9)
    assert [(c.key, c.before, c.now, c.allowed) for c in config_changes(config, other)] == [
        ("rounds", 3, 9, True),
        ("learner.learning_rate", 1e-6, 0.1, False),
    ]


def test_a_curve_over_the_run_keeps_its_rounds():
    curve = {"learner.learning_rate": ScheduleConfig(values=(1e-3, 1e-4))}
    for schedule, allowed in ((curve, False), ({"format_weight": ScheduleConfig(by_round=(1.0,))}, True)):
        config = dataclasses.replace(RunConfig(), schedule=schedule)
        (change,) = config_changes(config, dataclasses.replace(config, rounds=9))
        assert change.key == "rounds" and change.allowed is allowed


def test_the_run_keeps_the_date_of_its_start(begun):
    run = RunDir.resume(begun)
    run.close()
    assert (
        read_run_config(begun).model.prompt_date
        == from_tree(toml.parse(run.provenance.config), "ledger").model.prompt_date
        != ""
    )


def test_the_documentation_lists_what_may_change():
    told = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    table = told.partition("| keys | effect |")[2].partition("A finished run")[0]
    assert set(re.findall(r"`([\w.*]+)`", table)) == {*MAY_CHANGE, *MAY_CHANGE_BITS}
