"""The work of `aslfast export`: find the adapter and its base, and write them for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aslfast import __version__
from aslfast.checkpoint.run_dir import CONFIG, check_new_run_dir, read_run_config
from aslfast.cli.progress import quiet_libraries
from aslfast.cli.rollout import known_role
from aslfast.config.schema import DTYPES
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.trainer.export import AdapterSource, export_adapter, export_merged, hub_name


def find_adapter(place: Path, role: str, version: int | None, base_name: str | None) -> tuple[AdapterSource, str]:
    """Return the adapter of a run's role, or of a PEFT folder, and the dtype of its base. Raise UserError."""
    if (place / CONFIG).is_file():
        return _of_run(place, role, version, base_name)
    if not (place / lora.CONFIG).is_file():
        what = f"neither a run ({CONFIG}) nor an adapter ({lora.CONFIG})"
        raise UserError(f"{place}: {what}; name a folder that holds one")
    if version is not None:
        raise UserError(f"--version {version}: {place} is one adapter, not a run; leave --version out")
    named = json.loads((place / lora.CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    if not (Path(named) / "config.json").is_file():
        raise UserError(f"{place}: its base {named!r} is no folder here; set base_model_name_or_path in {lora.CONFIG}")
    return AdapterSource(Path(named), base_name or hub_name(Path(named)), place, role, _origin(place)), "float32"


def _of_run(run: Path, role: str, version: int | None, base_name: str | None) -> tuple[AdapterSource, str]:
    config = read_run_config(run)
    name = config.adapter_of(known_role(role, config.all_roles))
    if name is None:
        raise UserError(f"--role {role}: the base alone plays it in {run}; there is no adapter to export")
    folder = run / "adapters" / name
    adapter = lora.latest(folder) if version is None else folder / f"v{version:04d}"
    if adapter is None or not adapter.is_dir():
        present = ", ".join(str(int(p.name[1:])) for p in sorted(folder.glob("v*"))) or "none"
        what = f"version {version}" if version is not None else "adapter"
        raise UserError(f"{run}: no {what} of {role} there; versions: {present}")
    base = model_folder(config.model.path)
    origin = _origin(run, role=role, version=int(adapter.name[1:]), prompts=config.model.prompts, recipe=config.recipe)
    return AdapterSource(base, base_name or hub_name(base), adapter, role, origin), config.model.dtype


def _origin(place: Path, **facts: object) -> str:
    told = {"made by": f"aslfast {__version__}", "from": place.name, **facts}
    return "".join(f"- {name}: {value}\n" for name, value in told.items() if value != "")


def export(source: AdapterSource, out: Path, merge: bool, dtype: str) -> dict[str, Any]:
    """Write the adapter, or with `merge` the whole model, to a new folder; return a summary. Raise UserError."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    check_new_run_dir(out)
    quiet_libraries()
    if merge:
        export_merged(source, out, getattr(torch, dtype))
    else:
        export_adapter(source, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    kind = "model" if merge else "adapter"
    return {"out": str(out), "kind": kind, "base": source.base_name, "adapter": str(source.adapter), "bytes": size}


def print_export(summary: Mapping[str, Any]) -> None:
    """Print what was written."""
    made = "a model by itself" if summary["kind"] == "model" else f"a PEFT adapter of {summary['base']}"
    print(f"{summary['out']}: {made}, {summary['bytes'] / 1e6:,.1f} MB, from {summary['adapter']}")
