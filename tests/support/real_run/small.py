"""A whole real run in seconds: the lab's base, a world of the lab in the form of the real data."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.lab.world import World
from bench import real
from bench.real_run.folder import RunFolder
from bench.real_run.settings import RealSettings, Size

SIZE = Size(12, (12, 8, 12), 1, 6, 4, 3, 1, 1, 1, (1, 1, 1), 2, least_dev=8, least_test=8)
SMALL = (
    "model.prompts=compact", "tool.top_k=2", "sampler.max_new_tokens=48", "sampler.max_context=512", "lora.rank=4",
    "lora.alpha=8", "sft.batch_size=4", "sft.learning_rate=1e-3", "learner.learning_rate=1e-2",
    "learner.micro_batch_tokens=4096", "generator.prompts_per_step=2", "generator.group_size=3",
    "generator.rollouts_per_question=2", "generator.self_checks=1", "generator.min_acceptance=0",
    "grm.label=reference", "grm.prompts_per_step=2", "grm.group_size=3", "policy.prompts_per_step=2",
    "policy.group_size=3",
)  # fmt: skip


def write_data(folder: Path, count: int = 60) -> Path:
    """Passages and questions with their gold passages, in the columns of the real data."""
    folder.mkdir()
    world = World.make(0, "train")
    passages = world.passages()
    id_of = {passage.title: passage.id for passage in passages}
    asked = world.questions(random.Random(0), count, hops=(1,))
    rows = [
        {"id": f"q{i}", "question": q.question, "answers": [q.answer], "gold_passage": id_of[q.chain[0]]}
        for i, q in enumerate(asked)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "questions.parquet")
    columns = {"id": [p.id for p in passages], "contents": [p.contents for p in passages]}
    pq.write_table(pa.table(columns), folder / "passages.parquet")
    return folder


def small_settings(data: Path, **changed: object) -> RealSettings:
    return RealSettings(
        **{"size": SIZE, "data": str(data), "model": "lab", "threads": 1, "overrides": SMALL, **changed}
    )


def go_real(settings: RealSettings, out: Path, test: bool = False) -> None:
    """Start it, or go on with it: what a person does with the same command."""
    made = {"bench": "real", "commit": "0" * 40, "dirty": False, "date": "2026-01-01", "device": "-", "cores": 1}
    real.run(settings, RunFolder(out), made, test)
