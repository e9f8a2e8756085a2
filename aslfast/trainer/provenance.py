"""Provenance of a run: what its numbers depend on, its configuration, its inputs and its software.

It is recorded when a run starts and compared when it is resumed. Another configuration or other inputs would make it
another run, and are refused, but for the keys that may change: the ledger records what was taken. Other software makes
a valid run whose last bits differ, and is reported.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import torch
import transformers

from aslfast import __version__
from aslfast.checkpoint.commits import Provenance
from aslfast.checkpoint.run_dir import CONFIG, LEDGER
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.config.changes import config_changes
from aslfast.config.schema import SFT
from aslfast.errors import UserError
from aslfast.models.base_model import model_folder
from aslfast.plugins import is_import_path, source_file
from aslfast.prompts.templates import PROMPT_SETS
from aslfast.tools.named import files_of
from aslfast.trainer.datasets import uses_labelled

BLOCK_BYTES, BLOCKS = 1 << 16, 32


def provenance_of(config: RunConfig, n_ranks: int = 1) -> Provenance:
    """Return the provenance of a run that is started or resumed now. Raise UserError for a missing input.

    An index behind a URL has no checksum; the lab's worlds follow from the seed and the version.
    """
    local = {key: place for key, place in places(config).items() if not place.startswith(("http://", "https://"))}
    inputs = {key: fingerprint(Path(place)) for key, place in local.items()}
    return Provenance(inputs, _software(n_ranks), to_toml(config))


def places(config: RunConfig) -> dict[str, str]:
    """Return the files, folders and addresses that a run reads, by the keys that name them."""
    data = config.data
    named = {"model.path": str(model_folder(config.model.path))}
    named |= {f"roles.{name}.init_adapter": role.init_adapter for name, role in config.roles.items()}
    if config.environment or not data.lab:
        named |= {f"data.{key}": getattr(data, key) for key in ("index", "topics", "eval_questions", "eval_index")}
        named["data.labelled"] = data.labelled if uses_labelled(config) else ""
    if SFT in config.phases:
        named["sft.data"] = config.sft.data
    if config.model.prompts not in PROMPT_SETS:
        named["model.prompts"] = config.model.prompts
    return {key: place for key, place in (named | _own_code(config)).items() if place}


def _own_code(config: RunConfig) -> dict[str, str]:
    """Return the source files of the functions and tools of one's own, by the keys that name them."""
    named = {
        "environment": config.environment,
        "policy.reward": config.policy.reward,
        "generator.reward": config.generator.reward,
        "generator.accept": config.generator.accept,
        "generator.reference": config.generator.reference,
        "grm.label": config.grm.label,
        "grm.reward": config.grm.reward,
        "advantage.group_by": config.advantage.group_by,
        "advantage.rescale": config.advantage.rescale,
    }
    named |= {f"phases.{path}": path for path in config.round_phases}
    own = {key: source_file(path, key) for key, path in named.items() if is_import_path(path)}
    return own | files_of(config.tools)


def _software(n_ranks: int) -> dict[str, str]:
    return {
        "aslfast": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": str(torch.get_num_threads()),
        "ranks": str(n_ranks),
    }


def check_config(before: Provenance, config: RunConfig, run: Path) -> list[str]:
    """Return warnings for the user about keys that have changed since the run started. Raise UserError for one that
    may not."""
    if not before.config:
        return []
    found = config_changes(from_tree(toml.parse(before.config), f"{run / LEDGER}"), config)
    if refused := [change for change in found if not change.allowed]:
        what = ", ".join(f"{change.key} is {change.now!r} (it was {change.before!r})" for change in refused)
        raise UserError(f"{run / CONFIG}: {what}; set it back, or start a new run with --out")
    bits = "; the run goes on, but not bit for bit as it would have" if any(c.changes_bits for c in found) else ""
    taken = ", ".join(f"{change.key} {change.now!r} (it was {change.before!r})" for change in found)
    return [f"{run / CONFIG}: {taken}{bits}"] if found else []


def updated(before: Provenance, now: Provenance) -> Provenance | None:
    """Return what the ledger is to record of a resume: what it took; None where nothing has changed."""
    after = replace(before, inputs=now.inputs, config=now.config)
    return after if after != before else None


def compare(before: Provenance, now: Provenance) -> list[str]:
    """Return warnings for the user. Raise UserError for an input that differs from when the run started."""
    recorded = before.inputs | now.inputs if before.config else before.inputs  # an older version recorded fewer
    for key in recorded:
        if before.inputs.get(key) != now.inputs.get(key):
            raise UserError(f"{key}: not what it was when the run started; restore it, or start a new run with --out")
    old = {**now.software, **before.software}  # what an older version did not record is not compared
    other = [f"{name} {value} (it was {old[name]})" for name, value in now.software.items() if old[name] != value]
    return [f"{', '.join(other)}: the run goes on, but not bit for bit as it would have"] if other else []


def fingerprint(place: Path) -> str:
    """Return a checksum of a file, or of all visible files of a folder: names, sizes and contents.

    Of a large file only 32 evenly spread blocks of 64 KiB are read: another model, or another corpus, differs
    everywhere. So it detects other files, not a flipped bit, in milliseconds for any size. Raise UserError.
    """
    digest = blake2b(digest_size=16)
    try:
        for file in _files(place):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(place)}\0{size}\0".encode())
            with file.open("rb") as opened:
                for at in _blocks(size):
                    opened.seek(at)
                    digest.update(opened.read(BLOCK_BYTES))
    except OSError as error:
        raise UserError(f"{error.filename or place}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def _files(place: Path) -> list[Path]:
    """Return the files without hidden ones, such as caches of tools that download models."""
    if place.is_file():
        return [place]
    found = (path for path in place.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(place).parts))


def _blocks(size: int) -> list[int]:
    """Return the offsets of the blocks to read."""
    if size <= BLOCKS * BLOCK_BYTES:
        return list(range(0, size, BLOCK_BYTES))
    return [(size - BLOCK_BYTES) * i // (BLOCKS - 1) for i in range(BLOCKS)]
