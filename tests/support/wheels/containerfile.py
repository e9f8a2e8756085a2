"""Containerfiles without a daemon: their instructions, and their steps run in a folder that stands in for the image."""

from __future__ import annotations

import glob
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Containerfile, lines joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, words) for name, _, words in (line.partition(" ") for line in joined if line.strip())]


def run_steps(file: Path, context: Path, image: Path, commands: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """Copy what COPY copies and run what RUN runs, with absolute paths under `image`; return the user at each RUN.

    commands: shell functions that take the place of what only an image has, by name. Raises CalledProcessError.
    """
    user, users = "root", []
    functions = "".join(f"{name}() {{\n{body}\n}}\n" for name, body in commands.items())
    for name, words in instructions(file):
        if name == "COPY":
            copy(words.split(), context, image)
        elif name == "USER":
            user = words
        elif name == "RUN":
            users.append(user)
            placed = re.sub(r"(?<![\w.:/-])/(opt|wheels|data|var)\b", rf"{image}/\1", words)
            subprocess.run(["bash", "-euo", "pipefail", "-c", functions + placed], cwd=image, env=env, check=True)
    return users


def copy(words: list[str], context: Path, image: Path) -> None:
    *sources, goal = words
    folder = image / goal.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        found = glob.glob(str(context / source))
        if not found:
            raise FileNotFoundError(f"COPY {source}: nothing in {context}")
        for path in found:
            shutil.copy(path, folder)
