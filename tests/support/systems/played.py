"""One small round of a recipe in the lab: played whole, or killed in its middle and resumed."""

import json
import os
import signal
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.torch import load_file

from aslfast.config import RunConfig, load_recipe
from aslfast.data.trajectories import spans_of
from aslfast.plugins import is_import_path, name_in
from aslfast.rounds.records import Observer, StepRecord
from aslfast.trainer import train
from tests.support.killed_runs import bits_of, started

SMALL = (
    "rounds=1", "threads=1", "data.eval_count=2", "monitor.judge_probe=0", "data.labelled_count=12", "lora.rank=4",
    "sampler.max_turns=3", "grm.steps=1", "policy.steps=1", "generator.steps=1", "policy.prompts_per_step=2",
)  # fmt: skip
STEPS = {"steps": 2, "tasks_per_step": 3, "group_size": 4}  # of each phase of a recipe's own
PATIENCE_S = 300


@dataclass(frozen=True)
class Played:
    """A finished run: its folder, and the lines of its metrics.jsonl."""

    run: Path
    lines: list[dict]

    @classmethod
    def of(cls, run: Path) -> "Played":
        return cls(run, [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])

    @property
    def kept(self) -> dict[tuple[str, ...], object]:
        """What its phases keep after the last commit, by path: (phase, field, ...)."""
        found: dict[str, str | None] = {}
        with sqlite3.connect(self.run / "ledger.sqlite") as store:
            for (body,) in store.execute("SELECT body FROM commits ORDER BY number"):
                found |= json.loads(body)["state"].get("own", {})
        return {tuple(json.loads(key)): json.loads(text) for key, text in found.items() if text is not None}

    @property
    def moved(self) -> set[str]:
        """The adapters that are no longer the base: the B of a fresh adapter is 0."""
        files = (self.run / "adapters").glob("*/v*/adapter_model.safetensors")
        return {file.parents[1].name for file in files if _is_moved(file)}

    @property
    def rows(self) -> list[dict]:
        """Its trajectories as they are recorded, a row each, with parts of rewards and spans as values."""
        files = sorted((self.run / "trajectories").iterdir())
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return [row | {"reward_parts": json.loads(row["reward_parts"] or "{}"), "spans": spans_of(row)} for row in rows]

    def same_as(self, other: "Played") -> bool:
        """Whether lines without timing, adapters, trajectories and what was kept are the same, bit by bit."""
        return bits_of(self.run) == bits_of(other.run) and self.kept == other.kept


def _is_moved(file: Path) -> bool:
    return all(bool(weight.any()) for name, weight in load_file(file).items() if "lora_B" in name)


def small_config(recipe: str, settings: Sequence[str] = ()) -> RunConfig:
    """A recipe in small: two steps of each phase of its own. settings: over these."""
    names = [name_in(path) for path in load_recipe(recipe).round_phases if is_import_path(path)]
    steps = [f"own_phase.{name}.{key}={value}" for name in names for key, value in STEPS.items()]
    return load_recipe(recipe, [*SMALL, *steps, *settings])


def play_small(recipe: str, run: Path, settings: Sequence[str] = ()) -> Played:
    """Train that recipe in this process, into the new folder `run`."""
    train.train(small_config(recipe, settings), run)
    return Played.of(run)


def play_killed(recipe: str, run: Path, settings: Sequence[str] = ()) -> Played:
    """The same in another process, killed once its first step is committed, and resumed in this one."""
    process = started(_go_and_die, small_config(recipe, settings), run)
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    train.resume(run)
    return Played.of(run)


class _Dying(Observer):
    def step(self, record: StepRecord) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _go_and_die(config: RunConfig, run: Path) -> None:
    train.train(config, run, _Dying())
