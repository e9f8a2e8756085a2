"""What a run's numbers depend on beside its configuration: the inputs that it reads, the software that it runs on.

Recorded when a run starts and compared when it is resumed. Other inputs would make it another run, and are refused.
Other software makes a sound run whose last bits differ, and is reported.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import torch
import transformers

from aslfast import __version__
from aslfast.checkpoint.ledger import Provenance
from aslfast.config import RunConfig
from aslfast.errors import UserError
from aslfast.models.base_model import model_folder

BLOCK_BYTES, BLOCKS = 1 << 16, 32


def provenance_of(config: RunConfig, n_ranks: int = 1) -> Provenance:
    """Return the provenance of a run that starts, or goes on, here and now. Raises UserError for a missing input.

    An index behind a URL is known by its address alone; the lab's worlds follow from the seed and the version.
    """
    data = config.data
    places = {"model.path": str(model_folder(config.model.path))}
    if not data.lab:
        places |= {f"data.{key}": getattr(data, key) for key in ("index", "topics", "eval_questions", "eval_index")}
    here = {key: place for key, place in places.items() if place and not place.startswith(("http://", "https://"))}
    return Provenance({key: fingerprint(Path(place)) for key, place in here.items()}, _software(n_ranks))


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


def compare(before: Provenance, now: Provenance) -> list[str]:
    """Return what a person should know. Raises UserError for an input that differs from when the run started."""
    for key, checksum in now.inputs.items():
        if before.inputs.get(key) != checksum:
            raise UserError(
                f"{key}: not what it was when the run started; put that back, or start a new run with --out"
            )
    old = {**now.software, **before.software}  # what the former version did not record says nothing
    other = [f"{name} {value} (it was {old[name]})" for name, value in now.software.items() if old[name] != value]
    return [f"{', '.join(other)}: the run goes on, but not bit for bit as it would have"] if other else []


def fingerprint(place: Path) -> str:
    """Return a checksum of a file, or of all visible files of a folder: names, sizes and contents.

    Of a large file 32 blocks of 64 KiB spread evenly: another model, or another corpus, differs everywhere. So it tells
    other files, not a flipped bit, in milliseconds for any size. Raises UserError.
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
    """Return the files, without hidden ones: caches and marks of tools that fetch models."""
    if place.is_file():
        return [place]
    found = (path for path in place.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(place).parts))


def _blocks(size: int) -> list[int]:
    """Return the offsets of the blocks to read."""
    if size <= BLOCKS * BLOCK_BYTES:
        return list(range(0, size, BLOCK_BYTES))
    return [(size - BLOCK_BYTES) * i // (BLOCKS - 1) for i in range(BLOCKS)]
