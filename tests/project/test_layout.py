"""A house with rooms: files and folders that a newcomer can take in, and signatures that can be read."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.source_tree.sizes import (
    crowded_folders,
    long_signatures,
    n_lines,
    public_classes,
    uses_of_any,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "aslfast").rglob("*.py"))
MOST_LINES, MEDIAN_LINES = 320, 110
MOST_FILES, MOST_PACKAGES = 12, 20
MOST_ANY = 10  # in a thousand lines


def test_files_are_short():
    sizes = {str(file.relative_to(ROOT)): n_lines(file) for file in SOURCES}
    written = [size for size in sizes.values() if size]  # empty __init__.py files say nothing
    assert statistics.median(written) <= MEDIAN_LINES
    assert {file: size for file, size in sizes.items() if size > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("aslfast", ".py"), ("kernels", ".py"), ("csrc", ".hpp"), ("bench", ".py"), ("tests", ".py"), ("docs", ".md")],
)
def test_a_folder_can_be_taken_in(folder, suffix):
    assert crowded_folders(ROOT / folder, suffix, MOST_FILES) == {}


def test_aslfast_has_few_packages():
    packages = [folder.name for folder in (ROOT / "aslfast").iterdir() if (folder / "__init__.py").is_file()]
    assert 10 < len(packages) <= MOST_PACKAGES


def test_types_are_said():
    uses = {str(file.relative_to(ROOT)): uses_of_any(file) for file in SOURCES}
    lines = sum(map(n_lines, SOURCES))
    most = sorted(uses.items(), key=lambda item: -item[1])[:10]
    assert 1000 * sum(uses.values()) / lines <= MOST_ANY, f"{sum(uses.values())} in {lines} lines, most in {most}"


def test_long_signatures_are_explained():
    files = [file for folder in ("aslfast", "kernels") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert [str(found) for file in files for found in long_signatures(file)] == []


def test_a_class_name_is_used_once():
    places = defaultdict(list)
    for file in SOURCES:
        for name in public_classes(file):
            places[name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


# --- the checks themselves, on made-up files -----------------------------------------------------------------------

MANY = "a, b, c, d, e, f, g"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (f"def crowded({MANY}): pass", ["crowded"]),
        (f"class A:\n    async def crowded(self, {MANY}): pass", ["crowded"]),
        (f"def crowded({MANY}):  # fmt: skip\n    pass", ["crowded"]),  # a comment for a tool
        (f"# about something else\n\ndef crowded({MANY}): pass", ["crowded"]),
        (f"def outer():\n    def crowded({MANY}): pass", ["crowded"]),
        ("def crowded(a, b, c, *, d, e, f, **g): pass", ["crowded"]),
        (f"# one parameter an option\ndef explained({MANY}): pass", []),
        (f"# one parameter an option\n@decorated\ndef explained({MANY}): pass", []),
        (f"def explained(\n    {MANY}\n):  # one parameter an option\n    pass", []),
        (f"@triton.jit\ndef kernel({MANY}): pass", []),
        ("class A:\n    def fits(self, a, b, c, d, e, f): pass", []),
    ],
)
def test_a_long_signature_is_found(source, found, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(source)
    assert [one.name for one in long_signatures(file)] == found


def test_any_and_public_classes_are_counted(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import typing\nfrom typing import Any\nclass A:\n    x: Any\n    class Inner: ...\nclass _B: ...\n"
        "def f(a: dict[str, Any]) -> typing.Any:\n    'Any'\n"
    )
    assert uses_of_any(file) == 3 and public_classes(file) == ["A"]


def test_a_crowded_folder_is_found(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(13):
        (tmp_path / "in" / f"m{number}.py").write_text("")
        (tmp_path / f"m{number}.txt").write_text("")
    assert crowded_folders(tmp_path, ".py", 12) == {str(tmp_path / "in"): 13}
