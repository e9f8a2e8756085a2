"""A virtual environment that holds the declared dependencies of a wheel and nothing else, made without network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

OWN = {"aslfast", "aslfast-kernels"}  # from their wheels, not from the environment of the tests


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(requirements: list[str], extras: set[str]) -> set[str]:
    """Return the names of the installed distributions that the requirements lead to."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), extra) for text in requirements for extra in extras | {""}]
    while waiting:
        one, extra = waiting.pop()
        if one.marker and not one.marker.evaluate({"extra": extra}):
            continue
        name = normal(one.name)
        names.add(name)
        for more in {"", *one.extras}:
            if (name, more) not in seen:
                seen.add((name, more))
                texts = requirements if name == "aslfast" else installed_requirements(name)
                waiting += [(Requirement(text), more) for text in texts]
    return names


def installed_requirements(name: str) -> list[str]:
    return [] if name in OWN else metadata.requires(name) or []


def files_of(name: str) -> Iterator[Path]:
    """Yield what an installed distribution has put into site-packages, by its top level."""
    found = metadata.distribution(name)
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    yield from (Path(str(found.locate_file(top))) for top in tops)


def clean_environment(folder: Path, requirements: list[str], extras: set[str]) -> Path:
    """Make the environment; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python3.*/site-packages"))
    for name in needed(requirements, extras) - OWN:
        for path in files_of(name):
            if not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    return folder / "bin" / "python"
