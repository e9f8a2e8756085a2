"""The package's shape: public names whatever is imported first, one namespace of operators, no circle of imports."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import aslfast_kernels

FOLDER = Path(aslfast_kernels.__file__).resolve().parent
MODULES = {
    ".".join(["aslfast_kernels", *path.relative_to(FOLDER).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in FOLDER.rglob("*.py")
    if "build" not in path.parts
}
HOOKS = {"aslfast_kernels.integrations.prime_rl_hook"}  # needs another project, which it patches when imported


def imported(name: str) -> set[str]:
    """Return the package's modules that the module imports, at its head or within functions."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    parts, found = package.split("."), set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            found |= {base if base in MODULES else "", *(f"{base}.{alias.name}" for alias in node.names)}
    return (found & MODULES.keys()) - {package, name}


def test_functions_stay_functions_whatever_is_imported_first():
    """Importing a module binds its name in its package, over a function of that name."""
    code = f"import {', '.join(sorted(MODULES.keys() - HOOKS, reverse=True))}\nfrom aslfast_kernels import *\n"
    code += "print(*(f.__name__ for f in (group_advantage, linear_logprob, logprob, policy_loss, PolicyMetrics)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["group_advantage", "linear_logprob", "logprob", "policy_loss", "PolicyMetrics"]


def test_no_circle_of_imports():
    order = list(TopologicalSorter({name: imported(name) for name in MODULES}).static_order())  # raises CycleError
    assert order.index("aslfast_kernels.compilation.entry") < order.index("aslfast_kernels.compile_report")


def test_all_operators_are_in_one_namespace():
    import torch

    ours = {str(schema.name) for schema in torch._C._jit_get_all_schemas() if "aslfast" in str(schema.name)}
    names = "group_advantage linear_logprob linear_logprob_backward logprob logprob_backward"
    names += " policy_loss policy_loss_backward scale_residual"
    assert ours == {f"aslfast_kernels::{name}" for name in names.split()}


def test_an_install_of_kernels_alone_has_every_package():
    listed = (FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert len(packages) == 7 and {name for name in packages if f'"{name}"' not in listed} == set()
