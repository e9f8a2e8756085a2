"""The work of `aslfast train`: the plan, the run with its progress, the report at its end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aslfast.cli.options import print_json
from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.config import RunConfig, to_toml
from aslfast.preflight import dry_run


def print_plan(config: RunConfig, as_json: bool) -> None:
    """Print the resolved configuration and the work that it asks for: as JSON, or as a recipe with comments."""
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
    """Return a text as TOML comments, so that all output of a dry run is a recipe."""
    return "\n".join(f"# {line}" for line in text.splitlines())


class TrainProgress:
    """Shows a run's reports as one bar over all its trajectories; a step moves it by as many as were planned."""

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
        place = f" {left[0].name} after step {at['phase_step']}/{left[0].steps}" if left else ", before its evaluation"
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
        done = number * (self.round_size + self.eval_size)
        self.meter.move_to(done, note=f"round {number}/{self.rounds} evaluating")

    def _trajectory(self, values: dict[str, Any]) -> None:
        self.meter.advance(1, values["tokens"])

    def _evaluated(self, line: dict[str, Any]) -> None:
        number, accuracy = line["round"], 100 * line["policy_accuracy"]
        self.meter.say(f"round {number}/{self.rounds}: policy accuracy {accuracy:.1f}% ({line['seconds']:.0f} s)")
        self.meter.move_to(number * self.round_size + (number + 1) * self.eval_size)


def train_run(config: RunConfig, out: Path, quiet: bool, as_json: bool) -> None:
    """Train a run into a new folder and print its report. Raise UserError."""
    from aslfast.cli.report import print_report
    from aslfast.distributed.process_group import is_rank_zero
    from aslfast.trainer.train import train

    quiet_libraries()
    with Meter("train", dry_run.total_trajectories(config), "trajectories", quiet or not is_rank_zero()) as meter:
        train(config, out, TrainProgress(config, meter))
    if is_rank_zero():
        print_report(out, as_json)


def resume_run(run: Path, quiet: bool, as_json: bool) -> None:
    """Go on with a run and print its report. Raise UserError."""
    from aslfast.checkpoint.run_dir import read_run_config
    from aslfast.cli.report import print_report
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
