"""The import rule: packages import downwards only, no modules import each other, tests and benchmarks stand alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.source_tree.imports import Import, circles, imports_of, modules_of, wrong_way

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (  # the lowest first; the packages of one floor never import each other
    ("", "_bm25", "clock", "core", "errors", "limits"),
    ("files", "plugins"),
    ("data", "prompts", "distributed"),
    ("rewards", "index", "tools"),
    ("config", "retrieval"),
    ("models", "metrics", "checkpoint", "pool", "speed"),
    ("environment",),
    ("sampler", "learner"),
    ("rollout",),
    ("rounds", "lab"),
    ("phase",),
    ("filters",),
    ("systems",),
    ("trainer",),
    ("cli",),
    ("__main__",),
)


def imports(folder: str, package: str) -> list[Import]:
    return imports_of(modules_of(ROOT / folder, package), known=["aslfast", "aslfast_kernels", "bench", "tests"])


def package_of(imported: str) -> str:
    return imported.split(".")[0]


def told(breaches: list[Import]) -> list[str]:
    return [str(one) for one in breaches]


def test_packages_import_downwards_only():
    assert told(wrong_way(imports("aslfast", "aslfast"), FLOORS, "aslfast")) == []


@pytest.mark.parametrize(("folder", "package"), [("aslfast", "aslfast"), ("kernels", "aslfast_kernels")])
def test_no_modules_import_each_other(folder, package):
    assert circles(imports(folder, package)) == []


def test_the_kernels_stand_alone():
    assert told([one for one in imports("kernels", "aslfast_kernels") if package_of(one.imported) == "aslfast"]) == []


@pytest.mark.parametrize(("folder", "package"), [("aslfast", "aslfast"), ("kernels", "aslfast_kernels")])
def test_what_ships_imports_neither_tests_nor_benchmarks(folder, package):
    outside = [one for one in imports(folder, package) if package_of(one.imported) in ("tests", "bench")]
    assert told(outside) == []


def test_benchmarks_import_no_tests():
    assert told([one for one in imports("bench", "bench") if package_of(one.imported) == "tests"]) == []


def test_tests_import_helpers_from_support_alone():
    """So no test imports another test module, and no helper a test."""
    inner = [one for one in imports("tests", "tests") if package_of(one.imported) == "tests"]
    assert told([one for one in inner if not one.imported.startswith("tests.support")]) == []


# --- the check itself, on made-up trees --------------------------------------------------------------------------

SOUND = {
    "__init__.py": "",
    "core.py": "import os",
    "errors.py": "",
    "rewards/__init__.py": "from aslfast.rewards.match import match",
    "rewards/match.py": "from aslfast.core import Task\nfrom .. import errors",
    "config/__init__.py": "def load():\n    from aslfast import rewards",
}


def tree(folder: Path, files: Mapping[str, str]) -> list[Import]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return imports_of(modules_of(folder, "aslfast"), known=["aslfast"])


def test_a_sound_tree_passes(tmp_path):
    found = tree(tmp_path, SOUND)
    assert {(one.importer, one.imported) for one in found} == {
        ("aslfast.rewards", "aslfast.rewards.match"), ("aslfast.rewards.match", "aslfast.core"),
        ("aslfast.rewards.match", "aslfast.errors"), ("aslfast.config", "aslfast.rewards"),
    }  # fmt: skip
    assert wrong_way(found, FLOORS, "aslfast") == [] == circles(found)


@pytest.mark.parametrize(
    ("file", "text", "breach"),
    [
        ("rewards/match.py", "from aslfast.config import load", "aslfast.rewards.match:1 imports aslfast.config"),
        ("rewards/match.py", "def f():\n    import aslfast.config", "aslfast.rewards.match:2 imports aslfast.config"),
        ("rewards/match.py", "from ..config import load", "aslfast.rewards.match:1 imports aslfast.config"),
        ("core.py", "from aslfast import errors", "aslfast.core:1 imports aslfast.errors"),
        ("retrieval/x.py", "import aslfast.config", "aslfast.retrieval.x:1 imports aslfast.config"),  # the same floor
        ("utils/x.py", "import aslfast.core", "aslfast.utils.x:1 imports aslfast.core"),  # on no floor
        ("core.py", "if 0:\n  from aslfast.utils import x", "aslfast.core:2 imports aslfast.utils"),
    ],
)
def test_a_breach_of_the_rule_is_found(file, text, breach, tmp_path):
    found = tree(tmp_path, {**SOUND, "utils/__init__.py": "", file: text})
    assert told(wrong_way(found, FLOORS, "aslfast")) == [breach]


def test_a_circle_is_found_even_through_functions_and_type_hints(tmp_path):
    found = tree(tmp_path, {
        **SOUND,
        "rewards/match.py": "def f():\n    from aslfast.rewards import format",
        "rewards/format.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .match import f",
    })  # fmt: skip
    assert circles(found) == [["aslfast.rewards.format", "aslfast.rewards.match"]]
    assert wrong_way(found, FLOORS, "aslfast") == []
