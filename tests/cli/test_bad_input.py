"""No traceback reaches a user: bad numbers, paths and files end every command in one line and exit code 2.

Everything runs in the process. A command that fails leaves no file behind; one that a value does not disturb succeeds.
"""

from __future__ import annotations

import dataclasses
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from aslfast.cli.main import app
from aslfast.cli.rollout import SAMPLER_KEYS
from aslfast.config import RunConfig
from aslfast.index.bm25 import BM25Index
from tests.support.run_files import round_line, write_run

NUMBERS = ("0", "-1", str(2**31), str(2**63), str(2**64), "9" * 30, "nan", "inf", "many", "")
SUFFIXES = (".jsonl", ".parquet", ".tsv", ".csv", ".json", ".toml")
QUESTION = '{"id": "q", "question": "Who wrote it?", "answers": ["x"]}\n'


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, an index, questions, a run, and files that are none of these."""
    place = tmp_path_factory.mktemp("bad")
    (place / "c.jsonl").write_text('{"id": "a", "contents": "running dogs"}\n')
    (place / "more.jsonl").write_text('{"id": "b", "contents": "a cat"}\n')
    (place / "q.jsonl").write_text(QUESTION)
    (place / "ids.txt").write_text("a\n")
    BM25Index.build([place / "c.jsonl"], place / "idx", threads=1)
    write_run(place / "run", [round_line(0, 0.4, 0.7, (0.4,)), round_line(1, 0.5, 0.7, (0.5,))], [])
    (place / "full").mkdir()
    (place / "full" / "file").write_text("x")
    (place / "folder").mkdir()
    (place / "empty").write_bytes(b"")
    for suffix in ("", *SUFFIXES):
        (place / f"bytes{suffix}").write_bytes(bytes(range(256)) * 8)
    return place


def commands(place: Path) -> dict[str, list[str]]:
    """Each command with arguments that it runs on, the cheapest way; what would train or serve fails at its place."""
    index, questions, new = str(place / "idx"), str(place / "q.jsonl"), str(place / "new")
    play = ["--index", index, "--data", questions, "--limit", "1", "-q"]
    return {
        "train": ["--dry-run"],
        "eval": ["lab", *play],
        "rollout": ["--model", "lab", *play, "--out", new, "--max-turns", "1", "--max-new-tokens", "4"],
        "demos": ["--model", "lab", "--index", index, "--data", questions, "--out", new, "--role", "policy", "-q"],
        "sft": ["--model", "lab", "--data", str(place / "folder"), "--out", new, "-q"],
        "export": [str(place / "folder"), "--out", new],
        "index build": [str(place / "c.jsonl"), "--out", new, "-q"],
        "index search": [index, "dogs"],
        "index add": [index, str(place / "more.jsonl"), "-q"],
        "index merge": [index],
        "index serve": [str(place / "folder")],
        "watch": [str(place / "folder")],
        "trajectories": [str(place / "run")],
        "lab train-base": ["--out", str(place / "full"), "-q"],
        "lab measure": [str(place / "folder"), "-q"],
    }


def number_options(of: typer.Typer = app, path: str = "") -> Iterator[tuple[str, str, float | None, float | None]]:
    """Yield (command, option, least, most) for every option of a number in the app."""
    for command in of.registered_commands:
        assert command.callback
        for hint in typing.get_type_hints(command.callback, include_extras=True).values():
            kind, *declared = typing.get_args(hint) or [hint]
            if {kind, *typing.get_args(kind)} & {int, float}:
                (option,) = declared
                names = [word for word in (option.default, *option.param_decls) if str(word).startswith("-")]
                yield f"{path}{command.name}", names[0], option.min, option.max
    for group in of.registered_groups:
        assert group.typer_instance
        yield from number_options(group.typer_instance, f"{path}{group.name} ")


OPTIONS = list(number_options())


def files_of(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def ends_in_one_line(result: Result) -> bool:
    """Return whether the command refused, in one line; a traceback fails."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    if result.exit_code == 0:
        return False
    assert result.exit_code == 2 and result.stdout == "", (result.exit_code, result.output)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("aslfast: error: "), result.stderr
    return True


def test_every_number_of_a_command_has_bounds():
    assert {command for command, *_ in OPTIONS} == set(commands(Path())) and len(OPTIONS) >= 22
    assert [one for one in OPTIONS if one[2] is None or one[3] is None] == []


def test_an_option_has_the_bounds_of_the_key_that_it_replaces():
    bounds = {name: (least, most) for command, name, least, most in OPTIONS if command == "rollout"}
    keys = {"seed": RunConfig, "threads": RunConfig, "top_k": type(RunConfig().tool)}
    keys |= dict.fromkeys(SAMPLER_KEYS, type(RunConfig().sampler))
    for key, table in keys.items():
        wanted = next(item.metadata["bounds"] for item in dataclasses.fields(table) if item.name == key)
        least, most = bounds[f"--{key.replace('_', '-')}"]
        assert least in wanted and most in wanted and most + 1 not in wanted, key


@pytest.mark.parametrize(("command", "option"), [pytest.param(*one[:2], id=" ".join(one[:2])) for one in OPTIONS])
def test_any_number_works_or_ends_in_one_line(command: str, option: str, place: Path):
    for number in NUMBERS:
        before = files_of(place)
        given = [f"{option}={number}"] if option.startswith("--") else [f"{option}{number}"]
        result = call(*command.split(), *commands(place)[command], *given)
        if ends_in_one_line(result):
            assert files_of(place) == before, number
        elif (place / "new").is_dir():
            shutil.rmtree(place / "new")
        else:
            (place / "new").unlink(missing_ok=True)


# --- paths -----------------------------------------------------------------------------------------------------

# arguments with one path each that is no good: {} stands for it
PATHS = {
    "train --dry-run --recipe": "train --dry-run --recipe {}",
    "train --resume": "train --resume {}",
    "train model": "train --out {place}/new --set model.path={} -q",
    "train index": "train --out {place}/new --set data.lab=false --set data.topics=general "
    "--set data.index={} --set data.eval_questions={place}/q.jsonl -q",
    "train topics": "train --out {place}/new --set data.lab=false --set data.topics={} "
    "--set data.index={place}/idx --set data.eval_questions={place}/q.jsonl -q",
    "train questions": "train --out {place}/new --set data.lab=false --set data.topics=general "
    "--set data.index={place}/idx --set data.eval_questions={} -q",
    "train labelled": "train --out {place}/new --set data.lab=false --set data.topics=general "
    "--set data.index={place}/idx --set data.eval_questions={place}/q.jsonl --set data.labelled={} "
    "--set policy.question_source=labelled -q",
    "train adapter": "train --out {place}/new --set roles.policy.init_adapter={} -q",
    "recipes": "recipes {}",
    "plan recipe": "plan --gpu 80GB --recipe {}",
    "plan model": "plan --gpu 80GB --model {}",
    "plan gpu": "plan --gpu {}",
    "report": "report {}",
    "eval": "eval {} --data {place}/q.jsonl --index {place}/idx",
    "eval b": "eval lab {} --data {place}/q.jsonl --index {place}/idx",
    "eval data": "eval lab --data {} --index {place}/idx",
    "eval index": "eval lab --data {place}/q.jsonl --index {}",
    "rollout model": "rollout --model {} --data {place}/q.jsonl --index {place}/idx --out {place}/new",
    "rollout data": "rollout --model lab --data {} --index {place}/idx --out {place}/new",
    "rollout index": "rollout --model lab --data {place}/q.jsonl --index {} --out {place}/new",
    "rollout role": "rollout --model lab --data {place}/q.jsonl --index {place}/idx --out {place}/new --role {}",
    "model": "model {} --out {place}/new",
    "model dtype": "model {place}/bytes --out {place}/new --dtype {}",
    "doctor sampler": "doctor --sampler {}",
    "index build": "index build {} --out {place}/new -q",
    "index build analyzer": "index build {place}/c.jsonl --out {place}/new --analyzer {} -q",
    "index search": "index search {} dogs",
    "index search scores": "index search {place}/idx dogs --scores {}",
    "index info": "index info {}",
    "index verify": "index verify {}",
    "index add": "index add {place}/idx {} -q",
    "index add to": "index add {} {place}/more.jsonl -q",
    "index delete": "index delete {} a",
    "index delete id": "index delete {place}/idx {}",
    "index delete ids": "index delete {place}/idx --ids-from {}",
    "index merge": "index merge {}",
    "index serve": "index serve {}",
    "lab measure": "lab measure {} -q",
}
BAD = ("none", "full", "empty", "bytes", "q.jsonl/x", "x" * 300, "a\udcffb")
BAD_FILES = tuple(f"bytes{suffix}" for suffix in SUFFIXES)  # where the suffix of a file says how it is read
BY_SUFFIX = ("train questions", "train labelled", "eval data", "index build", "index add", "recipes", "plan recipe")


@pytest.mark.parametrize("command", PATHS)
def test_a_bad_path_ends_in_one_line_and_leaves_nothing(command: str, place: Path):
    before = files_of(place)
    for bad in BAD + BAD_FILES * (command in BY_SUFFIX):
        if (command, bad) == ("index delete ids", "empty"):
            continue  # a list of no ids deletes nothing
        words = [word.replace("{place}", str(place)) for word in PATHS[command].split()]
        result = call(*(word.replace("{}", str(place / bad)) for word in words))
        assert ends_in_one_line(result), (bad, result.output)
        assert files_of(place) == before, bad


NEW = {
    "train": "train --out {} --set model.path=lab -q",
    "rollout": "rollout --model lab --data {place}/q.jsonl --index {place}/idx --out {} -q",
    "index build": "index build {place}/c.jsonl --out {} -q",
    "lab train-base": "lab train-base --out {} -q",
    "model": "model {place}/bytes --out {}",
}


@pytest.mark.parametrize("command", NEW)
def test_a_place_that_cannot_be_written_ends_in_one_line(command: str, place: Path):
    before = files_of(place)
    for bad in ("full", "bytes", "q.jsonl/x", "x" * 300):
        words = [word.replace("{place}", str(place)) for word in NEW[command].split()]
        assert ends_in_one_line(call(*(word.replace("{}", str(place / bad)) for word in words))), bad
        assert files_of(place) == before, bad


@pytest.mark.parametrize(
    "words",
    [
        "--nope",
        "nope",
        "train --nope",
        "train --set",
        "train --out",
        "index nope",
        "index search",
        "index build --out x",
        "lab nope",
        "eval lab",
        "model",
        "model smollm2-135m",
        "plan",
        "plan --gpu 0GB",
        "plan --gpu -1GB",
        "plan --gpu nanGB",
        f"plan --gpu {'9' * 400}GB",
        f"plan --gpu {'9' * 5000}GB",
        "plan --gpu 80GB --set lora.rank=0",
        "train --set a",
        "train --set =1",
        "train --set .=1",
        "train --set policy.steps.x=1",
        f"train --set seed={'9' * 5000}",
        f"train --set x={'[' * 5000}",
        "train --set extends=tiny",
        "train --resume x --seed 1",
    ],
)
def test_bad_words_end_in_one_line(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ends_in_one_line(call(*words.split()))
    assert list(tmp_path.iterdir()) == []
