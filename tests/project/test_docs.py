"""Every command, option, path, link, module and recipe key that the documentation names exists."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from itertools import product

import pytest
import typer

from aslfast.cli.main import app
from aslfast.config.schema import RunConfig
from tests.support.source_tree import pages

TEXTS = {page.relative_to(pages.ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages.PAGES}
MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
CONFIG = RunConfig()
README = TEXTS["README.md"]
NOT_KEYS = {"model.generate", "policy.txt", "grm.txt", "generator.txt", "sft.json"}  # of transformers; files

every_page = pytest.mark.parametrize("name", TEXTS)


def unknown_in_command(words):
    """Return the words of an aslfast command that are no command and no option of it."""
    command, rest = typer.main.get_command(app), words[1:]
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return [rest[0]]
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known | {"--help"}]


def unknown_words(words):
    """Return what a command line of the documentation names that does not exist."""
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]] if "-m" in words else words
    if words[0] == "make":
        return [word for word in words[1:] if word not in MAKE_TARGETS and "=" not in word]
    if words[:3] == ["python", "-m", "aslfast"]:
        words = words[2:]
    if words[0] == "aslfast":
        return unknown_in_command(words)
    return [words[2]] if len(words) > 2 and not importlib.util.find_spec(words[2]) else []


def has_key(key):
    """Whether a dotted recipe key exists; `*` and `<role>` stand for any role."""
    table = CONFIG
    for part in re.sub(r"\*|<role>", "policy", key).split("."):
        if not dataclasses.is_dataclass(table) or part not in {item.name for item in dataclasses.fields(table)}:
            return False
        table = getattr(table, part)
    return True


@every_page
def test_commands_exist(name):
    assert [(words, unknown) for words in pages.command_lines(TEXTS[name]) if (unknown := unknown_words(words))] == []


@every_page
def test_links_lead_somewhere(name):
    broken = []
    for target in pages.links(TEXTS[name]):
        file, _, anchor = target.partition("#")
        goal = (pages.ROOT / name).parent / file if file else pages.ROOT / name
        found = goal.exists() and (not anchor or anchor in pages.anchors(goal.read_text(encoding="utf-8")))
        broken += [] if found else [target]
    assert broken == []


def alternatives(path):
    """Return the paths that a name with {a,b} stands for."""
    parts = [part.strip("{}").split(",") for part in re.split(r"(\{[^}]*\})", path)]
    return ["".join(chosen) for chosen in product(*parts)]


@every_page
def test_paths_exist(name):
    named = [path for text in pages.paths(TEXTS[name]) for path in alternatives(text)]
    assert [path for path in named if not list(pages.ROOT.glob(path.rstrip("/.")))] == []


@every_page
def test_recipe_keys_exist(name):
    tables = "|".join(
        item.name for item in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(getattr(CONFIG, item.name))
    )
    named = [
        found[1]
        for text in pages.inline(TEXTS[name])
        if (found := re.match(rf"((?:{tables})\.[\w.*<>]+)\b(?! ?\()", text))
    ]
    assert [
        key
        for key in named
        if not has_key(key) and key not in NOT_KEYS and not re.search(r"\.(py|md|hpp|toml|jsonl)$", key)
    ] == []


@every_page
def test_modules_exist(name):
    unknown = []
    for text in pages.inline(TEXTS[name]):
        for dotted in re.findall(r"\b(?:aslfast|aslfast_kernels|bench|tests)(?:\.\w+)+", text):
            unknown += [] if resolves(dotted) else [dotted]
    assert unknown == []


def resolves(dotted):
    """Whether a dotted name is a module or an attribute of one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:cut])):
                found = importlib.import_module(".".join(parts[:cut]))
                break
        except ModuleNotFoundError:
            continue
    else:
        return False
    for part in parts[cut:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_the_readme_is_short():
    assert len(README.split()) <= 900 and README.count("![") == 1 and README.count("```\nmake demo") == 1


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("aslfast train --recipe tiny --out X", []),
        ("aslfast training", ["training"]),
        ("aslfast index build X --outt Y", ["--outt"]),
        ("torchrun --standalone -m aslfast train --sed 1", ["--sed"]),
        ("python -m bench.kernels.bench_kernels", []),
        ("python -m bench.nothing", ["bench.nothing"]),
        ("make tests", ["tests"]),
    ],
)
def test_what_does_not_exist_is_found(line, unknown):
    assert [unknown_words(words) for words in pages.command_lines(f"Run `{line}` now.")] == [unknown]
    assert resolves("aslfast.index.BM25Index") and not resolves("aslfast.index.BM26Index")
    assert has_key("grm.label") and not has_key("grm.labels") and alternatives("a/{b,c}.py") == ["a/b.py", "a/c.py"]
