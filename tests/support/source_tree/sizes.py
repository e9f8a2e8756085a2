"""What the source files measure: lines, parameters, the type Any, class names; read with ast and tokenize."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_PARAMETERS = 6
SWITCHES = ("fmt:", "noqa", "type:", "pyright:", "ruff:")  # comments for tools explain nothing to a reader


def n_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def crowded_folders(root: Path, suffix: str, most: int) -> dict[str, int]:
    """Return the folders at and below `root` that hold more than `most` files of a suffix, each with its number."""
    counts: dict[str, int] = {}
    for file in root.rglob(f"*{suffix}"):
        counts[str(file.parent)] = counts.get(str(file.parent), 0) + 1
    return {folder: count for folder, count in counts.items() if count > most}


def uses_of_any(file: Path) -> int:
    """Return how often a file names the type Any, imports apart."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(tree)
    )


def public_classes(file: Path) -> list[str]:
    """Return the names of the classes at a file's top level that do not start with an underscore."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


@dataclass(frozen=True, slots=True)
class LongSignature:
    """A function of more than six parameters (`self` and `cls` apart) that no comment explains.

    Triton kernels are none: each of their pointers and sizes has to be a parameter.
    """

    file: Path
    line: int
    name: str
    parameters: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}: {self.parameters} parameters, and no comment says why"


def long_signatures(file: Path) -> Iterator[LongSignature]:
    """Yield the functions of a file that take too many parameters without a comment on or right above the signature."""
    text = file.read_text(encoding="utf-8")
    comments = _comment_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_triton_kernel(node):
            count = _parameters(node)
            first = min(part.lineno for part in (node, *node.decorator_list)) - 1  # the line above
            if count > MOST_PARAMETERS and not comments & set(range(first, node.body[0].lineno)):
                yield LongSignature(file, node.lineno, node.name, count)


def _is_triton_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in node.decorator_list)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    own = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - own + bool(given.vararg) + bool(given.kwarg)


def _comment_lines(text: str) -> set[int]:
    """Return the numbers of the lines with a comment for readers."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.string.lstrip("# ").startswith(SWITCHES)
    }
