"""The work of `aslfast train`: the plan, the run with its progress, the report at its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from aslfast.checkpoint.run_dir import CONFIG, read_run_config, resume_command
from aslfast.cli.options import print_json
from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.config import RunConfig, to_toml
from aslfast.systems.registry import plan_of
from aslfast.trainer.preflight import dry_run

NOTHING_WRITTEN = "nothing is written yet: start again with the same command"


def print_plan(config: RunConfig, as_json: bool) -> None:
    """Print the resolved configuration and the work it implies: as JSON, or as a recipe with comments."""
    from aslfast.config.own_parts import check_own_parts
    from aslfast.rollout.environments.open_environment import open_environment

    check_own_parts(config)
    if config.environment:
        open_environment(config)
    if as_json:
        phases = [asdict(phase) for phase in plan_of(config)]
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


@contextmanager
def _stoppable(run: Path, resumed: bool) -> Iterator[None]:
    """End the block at Ctrl-C and at SIGTERM with how to go on: they may come before the loop that answers them."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    of_another = not resumed and (run / CONFIG).exists()
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        begun = (run / CONFIG).exists() and not of_another
        what = f"stopped; go on with: {resume_command(run)}" if begun else f"stopped; {NOTHING_WRITTEN}"
        raise KeyboardInterrupt(what) from stop


def train_run(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
    """Train a run into a new folder and print its report. Raise UserError."""
    with _stoppable(out, resumed=False):
        _train(config, out, quiet, as_json)


def _train(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
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
    with _stoppable(run, resumed=True):
        _resume(run, quiet, as_json)


def _resume(run: Path, quiet: bool, as_json: bool) -> None:
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
