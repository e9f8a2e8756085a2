"""Runs of the lab that are killed and resumed, each in a process of its own, forked from one that has torch already."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq

from aslfast.config import RunConfig, load_recipe
from aslfast.data.qa_dataset import write_questions
from aslfast.index.bm25 import BM25Index
from aslfast.lab.world import World
from aslfast.rounds.records import TIMED
from aslfast.trainer import train
from aslfast.trainer.lab_datasets import lab_questions

SMALL = [
    "rounds=1", "threads=1", "data.lab=false", "sampler.max_turns=3", "grm.label=reference", "grm.steps=1",
    "generator.steps=2", "generator.prompts_per_step=2", "generator.group_size=3", "generator.rollouts_per_question=2",
    "generator.self_checks=1",
    "generator.min_acceptance=0", "generator.hops=[1]", "grm.prompts_per_step=2", "grm.group_size=3",
    "policy.steps=2", "policy.prompts_per_step=2", "policy.group_size=3",
]  # fmt: skip
N_STEPS, N_COMMITS = 5, 1 + 1 + 5 + 3 + 1  # begun, round 0, steps, phases, round 1


def lab_config(folder: Path, more: Sequence[str] = ()) -> RunConfig:
    """A whole run of a few seconds: the lab's base and a world of it, from files, with four questions to measure on."""
    world = World.make(0, "train")
    BM25Index.build(world.passages(), folder / "idx", threads=1)
    (folder / "topics.txt").write_text("\n".join(world.facts))
    write_questions(folder / "questions.parquet", lab_questions(world, 0, 4))
    files = [f"data.index={folder}/idx", f"data.topics={folder}/topics.txt"]
    return load_recipe("tiny", [*SMALL, *files, f"data.eval_questions={folder}/questions.parquet", *more])


def started(target, *args) -> multiprocessing.process.BaseProcess:
    """In a process forked from one that has imported torch and opened a model once: in a tenth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2])):  # else it does not find what it is to load
        forkserver.ensure_running()
    process = context.Process(target=target, args=args)
    process.start()
    return process


def go(config: RunConfig, run: Path, die_before: int = 0) -> None:
    """Starts the run, or resumes it where it has begun: what a person does after a kill.

    With `die_before` it kills itself before its so-many-th operation on a file of the run.
    """
    if die_before:
        left = itertools.count(die_before - 1, -1)
        _before_each_operation(run, lambda: next(left) or os.kill(os.getpid(), signal.SIGKILL))
    if (run / "config.toml").exists():
        train.resume(run)
    else:
        shutil.rmtree(run, ignore_errors=True)
        train.train(config, run)


def go_watched(config: RunConfig, run: Path, snapshots: Path) -> None:
    """Runs without a kill, and keeps what a kill before each operation would have left: `snapshots`/0000, ..."""
    numbers = itertools.count()

    def keep() -> None:
        if (run / "ledger.sqlite").exists():
            shutil.copytree(run, snapshots / f"{next(numbers):04d}", copy_function=linked)

    _before_each_operation(run, keep)
    train.train(config, run)


def linked(source: str, copy: str) -> None:
    """What is never written twice need not be copied."""
    final = source.endswith((".safetensors", ".parquet")) and not Path(source).name.startswith(".")
    _ = os.link(source, copy) if final else shutil.copy2(source, copy)


def _before_each_operation(run: Path, act: Callable[[], object]) -> None:
    """Calls `act` before a file of the run is opened, renamed, removed or synced, or a folder made or removed."""
    busy = False

    def guarded() -> None:
        nonlocal busy
        if not busy:
            busy = True
            act()
            busy = False

    def seen(event: str, args: tuple) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(args[0]).startswith(f"{run}/"):
            guarded()

    def fsync(number: int, sync=os.fsync) -> None:  # no audit event tells of it
        guarded()
        sync(number)

    sys.addaudithook(seen)
    os.fsync = fsync


def bits_of(run: Path) -> dict:
    """All that a run is for: its lines without timing, adapters byte for byte, trajectories value for value."""
    lines = {name: untimed(run / name) for name in ("metrics.jsonl", "rounds.jsonl")}
    adapters = {str(p.relative_to(run)): p.read_bytes() for p in sorted((run / "adapters").rglob("*")) if p.is_file()}
    rows = {p.name: pq.read_table(p).to_pylist() for p in sorted((run / "trajectories").iterdir())}
    return {**lines, **adapters, **rows}


def untimed(file: Path) -> list[dict]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
