"""Functions of packages that need not be installed, from their source files alone: what they import is not loaded."""

import ast
import importlib.util
import math
from pathlib import Path

import pytest
import torch


def tree_of(package, path):
    """Return the parsed file of an installed package; skip the test where there is none."""
    spec = importlib.util.find_spec(package)
    file = Path(spec.origin).parent / path if spec and spec.origin else None
    if file is None or not file.is_file():
        pytest.skip(f"{package} is not installed, or has no {path}")
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(package, path, names, **known):
    """Return functions by name, with `known` in place of what their module imports. Annotations are dropped."""
    found = [node for node in tree_of(package, path).body if isinstance(node, ast.FunctionDef) and node.name in names]
    if {node.name for node in found} != set(names):
        pytest.skip(f"{package}: {path} has no {', '.join(names)} any more")
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
    scope = {"torch": torch, "math": math, **known}
    exec(compile(ast.Module(_with_plain_assignments(found), []), path, "exec"), scope)
    return {name: scope[name] for name in names}


def _with_plain_assignments(nodes):
    """Return the nodes without annotations of local variables, whose types may not be known."""

    class Plain(ast.NodeTransformer):
        def visit_AnnAssign(self, node):
            return ast.copy_location(ast.Assign([node.target], node.value), node) if node.value else None

    return [ast.fix_missing_locations(Plain().visit(node)) for node in nodes]


def block_that_assigns(package, path, name, test):
    """Return, compiled, the body of the `if` whose condition is `test` and that assigns a variable of this name."""
    for node in ast.walk(tree_of(package, path)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == test:
            assigned = {t.id for n in node.body for t in getattr(n, "targets", []) if isinstance(t, ast.Name)}
            if name in assigned:
                return compile(ast.Module(node.body, []), path, "exec")
    pytest.skip(f"{package}: {path} assigns no {name} any more")
