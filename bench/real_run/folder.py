"""What lies where in the folder of a real run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aslfast.config.roles import ROLES
from aslfast.errors import UserError

READING = "reading"  # the practice before the first role


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder. Every stage writes below it, and reads nothing else but what the settings name."""

    path: Path

    @property
    def settings(self) -> Path:
        """The settings that the folder was started with."""
        return self.path / "settings.json"

    @property
    def model(self) -> Path:
        """The converted model."""
        return self.path / "model"

    @property
    def index(self) -> Path:
        """The index of the passages."""
        return self.path / "wiki.idx"

    @property
    def topics(self) -> Path:
        """The titles of the train split, a line each."""
        return self.path / "topics.txt"

    @property
    def result(self) -> Path:
        """The result, with its stamp."""
        return self.path / "real.json"

    @property
    def stages(self) -> Path:
        """The folder of the stages' records."""
        return self.path / "stages"

    @property
    def made(self) -> Path:
        """The stamps of the commands that worked on the folder, a line each."""
        return self.path / "made.jsonl"

    @property
    def test_log(self) -> Path:
        """A line each time that an evaluation on test is started."""
        return self.path / "test-touched.jsonl"

    def retrieval(self, split: str) -> Path:
        """Return what search finds by the questions of dev or test."""
        return self.path / f"retrieval-{split}.json"

    def split(self, name: str) -> Path:
        """Return the questions of train, dev or test."""
        return self.path / f"{name}.parquet"

    def demos(self, role: str) -> Path:
        """Return the demonstrations of a role."""
        return self.path / "demos" / f"{role}.parquet"

    @property
    def practice(self) -> Path:
        """The reading practice."""
        return self.path / "demos" / f"{READING}.jsonl"

    def cold_start(self, role: str) -> Path:
        """Return the folder of a role's fine-tuning, or of the reading practice's."""
        return self.path / "cold-start" / role

    def loop(self, name: str) -> Path:
        """Return the folder of a training run: rule or asl."""
        return self.path / name

    def evaluation(self, name: str, split: str) -> Path:
        """Return the folder of an evaluation's rows."""
        return self.path / "evaluations" / f"{name}-{split}"

    def adapters(self, name: str) -> Path:
        """Return the folder of adapters in bfloat16, which `aslfast eval` reads as a run."""
        return self.path / "adapters" / name


def newest_adapter(folder: Path, role: str) -> Path:
    """Return the newest adapter of a role in the folder of a run. Raise UserError."""
    versions = [path for path in (folder / "adapters" / role).glob("v*") if path.name[1:].isdecimal()]
    found = max(versions, key=lambda path: int(path.name[1:]), default=None)
    if found is None:
        raise UserError(f"{folder}: no adapter in adapters/{role}; name the folder of a run that trained the role")
    return found


def cold_adapters(folder: RunFolder, given: str) -> dict[str, Path]:
    """Return the three adapters of the cold start: those of a folder that was given, or the fine-tuned ones."""
    if given:
        return {role: newest_adapter(Path(given), role) for role in ROLES}
    return {role: folder.cold_start(role) for role in ROLES}


def adapters_of(folder: RunFolder, name: str, given: str) -> dict[str, Path]:
    """Return the adapters that an evaluation plays: none of the untouched model; of rule, its policy alone."""
    if name == "untouched":
        return {}
    cold = cold_adapters(folder, given)
    if name == "cold-start":
        return cold
    trained: tuple[str, ...] = ("policy",) if name == "rule" else ROLES
    return {role: newest_adapter(folder.loop(name), role) for role in trained}
