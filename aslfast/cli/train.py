"""The work of `aslfast train`: the plan, the run with its progress, the report at its end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from aslfast.cli.options import print_json
from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.config import RunConfig, to_toml
from aslfast.preflight import dry_run


def print_plan(config: RunConfig, as_json: bool) -> None:
    """Print the resolved configuration and the work it implies: as JSON, or as a recipe with comments."""
    if as_json:
        phases = [asdict(phase) for phase in dry_run.phases(config)]
        counts = {
            "round_trajectories": dry_run.round_trajectories(config),
            "total_trajectories": dry_run.total_trajectories(config),
        }
        print_json({"config": asdict(config), "phases": phases, **counts})
    else:
        print(f"{to_toml(config)}\n{toml_comment(dry_run.describe(config))}")


def toml_comment(text: str) -> str:
    """Return a text as TOML comments, so that a dry run's whole output is a recipe."""
    return "\n".join(f"# {line}" for line in text.splitlines())


def train_run(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
    """Train a run into a new folder and print its report. Raise UserError."""
    from aslfast.cli.report import print_report
    from aslfast.cli.train_progress import TrainProgress
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import train

    quiet_libraries()
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet or not is_rank_zero()) as meter:
        train(config, out, TrainProgress(config, meter))
    if is_rank_zero():
        print_report(out, as_json)


def resume_run(run: Path, quiet: bool, as_json: bool) -> None:
    """Resume a run and print its report. Raise UserError."""
    from aslfast.checkpoint.run_dir import read_run_config
    from aslfast.cli.report import print_report
    from aslfast.cli.train_progress import TrainProgress
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import resume

    quiet_libraries()
    if not is_rank_zero():  # it may not see the folder
        resume(run)
        return
    config = read_run_config(run)
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet) as meter:
        resume(run, TrainProgress(config, meter))
    print_report(run, as_json)
