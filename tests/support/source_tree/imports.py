"""The imports of a source tree, read with ast and never run: who imports whom, imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Import:
    """One module that another imports, at a line of that other one's file."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules_of(root: Path, package: str) -> dict[str, Path]:
    """Return the modules of a package by their dotted names; `root` is the package's folder, whatever its own name."""
    return {_dotted(package, file.relative_to(root)): file for file in sorted(root.rglob("*.py"))}


def _dotted(package: str, file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imports_of(modules: Mapping[str, Path], known: Sequence[str] = ()) -> list[Import]:
    """Return all imports among the modules, and those of the modules or packages named in `known`.

    `from a import b` is an import of a.b where that is a module, else of a.
    """
    names = {*modules, *known}
    found = [
        Import(importer, imported, line)
        for importer, file in modules.items()
        for name, line in _named(ast.parse(file.read_text(encoding="utf-8")), importer, file.name == "__init__.py")
        if (imported := _longest_known(name, names)) and imported != importer
    ]
    return list(dict.fromkeys(found))


def _longest_known(name: str, names: set[str]) -> str | None:
    """Return the module that a dotted name leads to, if it is one of `names` or lies in one."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def _named(tree: ast.Module, importer: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Yield the absolute dotted name of everything imported, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = importer.split(".")
                kept = own[: len(own) - node.level + is_package]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def circles(imports: Sequence[Import]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (strongly connected components, Tarjan 1972)."""
    edges: dict[str, set[str]] = {}
    for one in imports:
        edges.setdefault(one.importer, set()).add(one.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found


def wrong_way(imports: Sequence[Import], floors: Sequence[Sequence[str]], package: str) -> list[Import]:
    """Return the imports from a floor's packages to a package of the same floor or of one above.

    floors: names of the package's parts, the lowest floor first. A part that stands on no floor is wrong, too.
    """
    height = {part: number for number, parts in enumerate(floors) for part in parts}

    def wrong(one: Import) -> bool:
        lower, upper = (_part(name, package) for name in (one.imported, one.importer))
        return lower != upper and height.get(lower, len(floors)) >= height.get(upper, -1)

    return [one for one in imports if one.imported.split(".")[0] == package and wrong(one)]


def _part(module: str, package: str) -> str:
    """Return the package's part that a module belongs to: "" for the package itself."""
    return module.removeprefix(package).lstrip(".").split(".")[0]
