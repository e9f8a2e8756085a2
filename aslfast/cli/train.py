"""`aslfast train` and `aslfast report`: the plan, the progress, the table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from aslfast.cli.progress import Meter, quiet_libraries, stdout
from aslfast.config import RunConfig, to_toml
from aslfast.metrics.alarm_tables import alarm_lines, monitor_tables
from aslfast.metrics.tables import RunLog, reuse_table, table
from aslfast.preflight import dry_run


def print_plan(config: RunConfig, as_json: bool) -> None:
    if as_json:
        phases = [asdict(phase) for phase in dry_run.phases(config)]
        counts = {
            "round_trajectories": dry_run.round_trajectories(config),
            "total_trajectories": dry_run.total_trajectories(config),
        }
        print(json.dumps({"config": asdict(config), "phases": phases, **counts}))
    else:
        print(f"{to_toml(config)}\n{comment(dry_run.describe(config))}")


def comment(text: str) -> str:
    """As TOML comments, so that all of a dry run's output is a recipe."""
    return "\n".join(f"# {line}" for line in text.splitlines())


def train_run(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
    from aslfast.cli.train_progress import TrainProgress
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import train

    quiet_libraries()
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet or not is_rank_zero()) as meter:
        train(config, out, TrainProgress(config, meter))
    if is_rank_zero():
        print_report(out, as_json)


def resume_run(run: Path, quiet: bool, as_json: bool) -> None:
    from aslfast.checkpoint.run_dir import read_run_config
    from aslfast.cli.train_progress import TrainProgress
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import resume

    quiet_libraries()
    if not is_rank_zero():  # it may not even see the folder
        resume(run)
        return
    config = read_run_config(run)
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet) as meter:
        resume(run, TrainProgress(config, meter))
    print_report(run, as_json)


def print_report(run: Path, as_json: bool) -> None:
    """The table on stdout, the picture into the run."""
    from aslfast.metrics.plots import draw

    log = RunLog.read(run)
    picture = draw(run)
    if as_json:
        print(json.dumps({"run": str(run), "curves": str(picture), **log.as_json()}))
        return
    console = stdout()
    console.print(table(log, console.width))
    if log.reuse():
        console.print(reuse_table(log))
    if log.monitored():
        console.print(*monitor_tables(log))
    for text in alarm_lines(log):
        console.print(text, markup=False, style="bold red", soft_wrap=True)
    print(f"{log.sentence()}\nCurves: {picture}")
