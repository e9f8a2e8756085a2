"""The folder of a fine-tuning: its settings first, its progress meanwhile, the adapter in PEFT's format at the end.

    sft.json              settings, checksums of the inputs, versions of the software
    metrics.jsonl         a line a step
    epochs.jsonl          a line an epoch
    state.safetensors     weights and optimizer after some step: only while it trains
    adapter_*             the result: only when it is finished

The state file is the one truth about how far it has come: a kill leaves the old one or the new one, and lines of later
steps are dropped when it is resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
from safetensors import SafetensorError

from aslfast.checkpoint.run_dir import LOCK, check_new_run_dir
from aslfast.errors import UserError
from aslfast.files import lock
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import append_line, read_lines, rewrite_lines
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import load_learner, save_learner
from aslfast.models import lora
from aslfast.trainer.sft.settings import SftConfig

Line: TypeAlias = dict[str, float]
START, STATE, METRICS, EPOCHS = "sft.json", "state.safetensors", "metrics.jsonl", "epochs.jsonl"


@dataclass(frozen=True, slots=True)
class SftStart:
    """What a fine-tuning was started with."""

    config: SftConfig
    inputs: dict[str, str]  # checksums, by option
    software: dict[str, str]
    rows: int
    dev_rows: int
    left_out: dict[str, int]  # rows, by reason


class SftFolder:
    """Locked by one process until `close`. Make it with `create` or `resume`. Lines are as in the files, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Line] = []
        self.epochs: list[Line] = []
        self._open = ExitStack()
        self._open.enter_context(lock.hold(path / LOCK, f"{path}: another process trains this adapter; wait for it"))

    @classmethod
    def create(cls, path: Path, start: SftStart) -> SftFolder:
        """Return a new folder that holds its settings. Raise UserError, OSError."""
        check_new_run_dir(path)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / START, json.dumps(asdict(start), indent=2) + "\n")
        return cls(path)

    @classmethod
    def resume(cls, path: Path) -> tuple[SftFolder, SftStart]:
        """Return a folder that `create` made, and what it was started with. Raise UserError."""
        try:
            start = msgspec.json.decode((path / START).read_bytes(), type=SftStart)
        except OSError as error:
            raise UserError(f"{path / START}: {error.strerror}; name the folder of an `aslfast sft`") from error
        except msgspec.DecodeError as error:
            raise UserError(f"{path / START}: damaged ({error}); start again with another --out") from error
        return cls(path), start

    def close(self) -> None:
        """Release the folder."""
        self._open.close()

    @property
    def finished(self) -> bool:
        """Whether the adapter is complete: its configuration is the last file to appear."""
        return (self.path / lora.CONFIG).is_file()

    def restore(self, learner: Learner, role: str) -> None:
        """Set learner and lines to the last saved step, or to the start where none was saved. Raise UserError."""
        state = self.path / STATE
        if state.exists():
            try:
                load_learner(learner, role, state)
            except (SafetensorError, KeyError, RuntimeError) as error:
                raise UserError(f"{state}: damaged ({error}); start again with another --out") from error
        self.read_lines(learner.version[role] if state.exists() else -1)
        rewrite_lines(self.path / METRICS, self.steps)
        rewrite_lines(self.path / EPOCHS, self.epochs)

    def read_lines(self, last_step: int) -> None:
        """Read the lines of steps up to this one."""
        for name, lines in ((METRICS, self.steps), (EPOCHS, self.epochs)):
            found = read_lines(self.path / name) if (self.path / name).exists() else []
            lines[:] = [line for line in found if line["step"] <= last_step]

    def add_step(self, line: Line) -> None:
        """Append a step's line. Raise OSError."""
        append_line(self.path / METRICS, line)
        self.steps.append(line)

    def add_epoch(self, line: Line) -> None:
        """Append an epoch's line. Raise OSError."""
        append_line(self.path / EPOCHS, line)
        self.epochs.append(line)

    def save(self, learner: Learner, role: str) -> None:
        """Save the learner after the steps so far. Raise OSError."""
        save_learner(learner, role, self.path / STATE)

    def finish(self, learner: Learner, role: str) -> None:
        """Write the adapter, its configuration last; then remove the state. Raise OSError."""
        partial = self.path / ".adapter.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        lora.write_adapter(learner.model, role, partial)
        for name in (lora.WEIGHTS, lora.CONFIG):
            (partial / name).replace(self.path / name)
        self.tidy()

    def tidy(self) -> None:
        """Remove what only an unfinished folder needs. Raise OSError."""
        (self.path / STATE).unlink(missing_ok=True)
        for left in self.path.glob(".*.partial"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def clear_on_error(folder: SftFolder, existed: bool, train: Callable[[], None]) -> None:
    """Train; an error before the first saved step leaves the folder as it was, so that the command can be repeated."""
    try:
        train()
    except Exception:
        if not (folder.path / STATE).exists():
            shutil.rmtree(folder.path, ignore_errors=True)
            if existed:
                folder.path.mkdir(exist_ok=True)
        raise
    finally:
        folder.close()
