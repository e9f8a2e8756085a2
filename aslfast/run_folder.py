"""The folder of a run: config.toml, metrics.jsonl, rounds.jsonl, trajectories/, adapters/."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aslfast.config import RunConfig, to_toml
from aslfast.errors import UserError
from aslfast.trajectory import Record, write_trajectories


class RunFolder:
    """Everything that a run writes. An OSError on the way becomes a UserError that names the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> RunFolder:
        folder = Path(path)
        check_new(folder)
        run = cls(folder)
        with run.writing():
            folder.mkdir(parents=True, exist_ok=True)
            run.write_text("config.toml", to_toml(config))
        return run

    @contextmanager
    def writing(self):
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "free the space or choose another --out"
            raise UserError(f"{self.path}: cannot be written ({reason}); {remedy}") from error

    def write_text(self, name: str, text: str) -> None:
        """A small file, complete or not at all."""
        partial = self.path / f".{name}.partial"
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path / name)
        finally:
            partial.unlink(missing_ok=True)

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """One line of JSON, on the disk when this returns; a line that does not fit is taken back."""
        line = (json.dumps(values, allow_nan=False) + "\n").encode()  # NaN is no JSON
        with self.writing(), open(self.path / name, "ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def trajectories(self, round_number: int, phase: str, records: Sequence[Record]) -> None:
        with self.writing():
            folder = self.path / "trajectories"
            folder.mkdir(exist_ok=True)
            write_trajectories(folder / f"round-{round_number:03d}-{phase}.parquet", records)

    def adapter_folder(self, role: str) -> Path:
        return self.path / "adapters" / role


def check_new(folder: Path) -> None:
    """Raises UserError unless the folder is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not empty; choose another --out or remove it")
