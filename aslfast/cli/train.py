"""`aslfast train` and `aslfast report`: the plan, the progress, the table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aslfast.cli.progress import Meter, quiet_libraries, stdout
from aslfast.config import RunConfig, to_toml
from aslfast.metrics.alarm_tables import alarm_lines, monitor_tables
from aslfast.metrics.run_log import RunLog
from aslfast.metrics.tables import prefix_cache_table, table
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


class TrainProgress:
    """Turns train's reports into one bar over all trajectories of the run; a step moves it by what was planned."""

    def __init__(self, config: RunConfig, meter: Meter) -> None:
        self.meter = meter
        self.round_size = dry_run.round_trajectories(config)
        self.eval_size = dry_run.evaluation_trajectories(config)
        self.phases = {phase.name: phase for phase in dry_run.phases(config)}
        self.rounds = config.rounds

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        getattr(self, f"_{event}")(values)

    def _setup(self, values: dict[str, Any]) -> None:
        self.meter.advance(0, note=f"opening {values['what']}")

    def _resumed(self, at: dict[str, Any]) -> None:
        number, done = at["round"], at["round"] * self.eval_size + max(0, at["round"] - 1) * self.round_size
        left = [phase for phase in self.phases.values() if number and phase.name not in at["phases_done"]]
        done += sum(phase.steps * phase.per_step for phase in self.phases.values() if number and phase not in left)
        done += at["phase_step"] * left[0].per_step if left else 0
        place = f" {left[0].name} after step {at['phase_step']}/{left[0].steps}" if left else ", to be measured"
        self.meter.say(f"resumed in round {number}/{self.rounds}{place}")
        self.meter.move_to(done)
        self.meter.restart()

    def _step(self, line: dict[str, Any]) -> None:
        phase = self.phases[line["phase"]]
        place = f"round {line['round']}/{self.rounds} {line['phase']} step {line['step']}/{phase.steps}"
        self.meter.advance(phase.per_step, line["sampled_tokens"], f"{place} reward {line['reward']:.2f}")

    def _notice(self, values: dict[str, Any]) -> None:
        self.meter.say(values["text"])

    def _evaluating(self, values: dict[str, Any]) -> None:
        number = values["round"]
        if number == 0:
            self.meter.restart()  # opening the model says nothing about the pace
        self.meter.move_to(number * (self.round_size + self.eval_size), note=f"round {number}/{self.rounds} measuring")

    def _trajectory(self, values: dict[str, Any]) -> None:
        self.meter.advance(1, values["tokens"])

    def _evaluated(self, line: dict[str, Any]) -> None:
        number = line["round"]
        self.meter.say(
            f"round {number}/{self.rounds}: policy accuracy {100 * line['policy_accuracy']:.1f}% "
            f"({line['seconds']:.0f} s)"
        )
        self.meter.move_to(number * self.round_size + (number + 1) * self.eval_size)


def train_run(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import train

    quiet_libraries()
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet or not is_rank_zero()) as meter:
        train(config, out, TrainProgress(config, meter))
    if is_rank_zero():
        print_report(out, as_json)


def resume_run(run: Path, quiet: bool, as_json: bool) -> None:
    from aslfast.checkpoint.run_dir import read_run_config
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import resume

    quiet_libraries()
    if not is_rank_zero():  # it may not even see the folder
        resume(run, lambda *_: None)
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
    if log.prefix_cache():
        console.print(prefix_cache_table(log))
    if log.has_alarms():
        console.print(*monitor_tables(log))
    for text in alarm_lines(log):
        console.print(text, markup=False, style="bold red", soft_wrap=True)
    print(f"{log.sentence()}\nCurves: {picture}")
