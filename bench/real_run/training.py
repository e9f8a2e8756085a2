"""Demonstrations, fine-tunings and loops, each from its start or from where it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from aslfast.checkpoint.run_dir import CONFIG
from aslfast.cli.adapters.demos import write_practice
from aslfast.cli.adapters.sft import run_sft
from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.cli.rollout import write_records
from aslfast.cli.train_progress import TrainProgress
from aslfast.config import RunConfig
from aslfast.data.trajectories import Record
from aslfast.errors import UserError
from aslfast.retrieval.retriever import open_index
from aslfast.trainer.demos.make import DemonstrationMaker, read_labelled
from aslfast.trainer.preflight import dry_run
from aslfast.trainer.sft.folder import START
from aslfast.trainer.train import resume, train

DEV_FRACTION = 0.03  # of the prompts, for the loss before the first step and after each pass


def make_demonstrations(config: RunConfig, role: str, questions: Path, limit: int, out: Path) -> None:
    """Write a role's demonstrations from the first `limit` questions, unless they are there. Raise UserError."""
    if out.exists():
        return
    labelled = read_labelled(questions, limit)
    maker = DemonstrationMaker.open(config, open_index(config.data.index), (role,))
    with Meter(f"demonstrations of the {role}", len(labelled), "questions") as meter:
        made = maker.make(labelled, meter.advance)
    if not made.trajectories:
        why = ", ".join(f"{reason} ({n})" for reason, n in made.left_out.most_common(3))
        raise UserError(f"{questions}: {len(labelled)} questions gave no demonstration of the {role}: {why}")
    out.parent.mkdir(exist_ok=True)
    write_records(out, [Record(trajectory) for trajectory in made.trajectories])


def make_practice(config: RunConfig, questions: Path, limit: int, out: Path) -> None:
    """Write the reading practice from the first `limit` questions, unless it is there. Raise UserError."""
    if out.exists():
        return
    labelled = read_labelled(questions, limit)
    out.parent.mkdir(exist_ok=True)
    with Meter("reading practice", len(labelled), "questions") as meter:
        write_practice(config, config.data.index, labelled, out, meter.advance)


def fine_tune(config: RunConfig, role: str, data: Path, start: Path | None, out: Path) -> None:
    """Train a role's adapter on a file of demonstrations, from the adapter `start` or a fresh one; or go on with it.

    Raise UserError.
    """
    out.parent.mkdir(exist_ok=True)
    if (out / START).exists():
        run_sft(out, None, quiet=False)
        return
    shape = {"init_adapter": str(start)} if start else {"rank": config.lora.rank, "alpha": config.lora.alpha}
    options = {
        "model": config.model.path, "data": str(data), "role": role, "lr": config.sft.learning_rate,
        "epochs": config.sft.epochs, "batch_size": config.sft.batch_size, "dev_fraction": DEV_FRACTION,
        "micro_batch_tokens": config.learner.micro_batch_tokens, "dtype": config.model.dtype, "seed": config.seed,
        "threads": config.threads, "prompt_date": config.model.prompt_date, **shape,
    }  # fmt: skip
    run_sft(out, options, quiet=False)


def train_or_resume(config: RunConfig, run: Path) -> None:
    """Train into the folder `run`, or go on with what is there. Raise UserError."""
    quiet_libraries()
    with Meter(run.name, dry_run.total_trajectories(config), "trajectories") as meter:
        if (run / CONFIG).exists():
            resume(run, TrainProgress(config, meter))
        else:
            shutil.rmtree(run, ignore_errors=True)  # what a kill left before the first file was whole
            train(config, run, TrainProgress(config, meter))
