"""The progress of a run in the terminal."""

from __future__ import annotations

from aslfast.cli.progress import Meter
from aslfast.config import RunConfig
from aslfast.rounds.records import Observer, Position, RoundRecord, StepRecord
from aslfast.systems.registry import plan_of
from aslfast.trainer.preflight import dry_run


class TrainProgress(Observer):
    """One bar over all trajectories of a run; each step advances it by the planned number."""

    def __init__(self, config: RunConfig, meter: Meter) -> None:
        self.meter = meter
        self.round_size = dry_run.round_trajectories(config)
        self.eval_size = dry_run.evaluation_trajectories(config)
        self.phases = {phase.name: phase for phase in plan_of(config)}
        self.rounds = config.rounds

    def setup(self, what: str) -> None:
        self.meter.advance(0, note=f"opening {what}")

    def adapted(self, what: str) -> None:
        self.meter.say(f"adapters on {what}")

    def resumed(self, at: Position) -> None:
        number, done = at.round, at.round * self.eval_size + max(0, at.round - 1) * self.round_size
        left = [phase for phase in self.phases.values() if number and phase.name not in at.phases_done]
        done += sum(phase.steps * phase.per_step for phase in self.phases.values() if number and phase not in left)
        done += at.phase_step * left[0].per_step if left else 0
        place = f" {left[0].name} after step {at.phase_step}/{left[0].steps}" if left else ", before its evaluation"
        self.meter.say(f"resumed in round {number}/{self.rounds}{place}")
        self.meter.move_to(done)
        self.meter.restart()

    def step(self, record: StepRecord) -> None:
        phase = self.phases[record.phase]
        place = f"round {record.round}/{self.rounds} {record.phase} step {record.step}/{phase.steps}"
        rewards = {name: seen["reward"] for name, seen in record.by_role.items()} or {"": record.summary.reward}
        told = ", ".join(f"{name} {reward:.2f}".strip() for name, reward in rewards.items())
        self.meter.advance(phase.per_step, record.counters.sampled_tokens, f"{place} reward {told}{_speed(record)}")

    def tuned(self, step: int, total: int, loss: float) -> None:
        self.meter.advance(0, note=f"round 1/{self.rounds} sft step {step}/{total} loss {loss:.3f}")

    def warning(self, text: str) -> None:
        self.meter.say(text)

    def evaluating(self, round_number: int) -> None:
        if round_number == 0:
            self.meter.restart()  # opening the model says nothing about the pace
        done = round_number * (self.round_size + self.eval_size)
        self.meter.move_to(done, note=f"round {round_number}/{self.rounds} evaluating")

    def trajectory(self, sampled_tokens: int) -> None:
        self.meter.advance(1, sampled_tokens)

    def evaluated(self, record: RoundRecord) -> None:
        number, accuracy = record.round, float(record.scores["policy_accuracy"])
        text = f"policy accuracy {100 * accuracy:.1f}% ({record.seconds:.0f} s)"
        self.meter.say(f"round {number}/{self.rounds}: {text}")
        self.meter.move_to(number * self.round_size + (number + 1) * self.eval_size)


def _speed(record: StepRecord) -> str:
    """Return the shares of sampling and learning in a step, and how well the learner used its device."""
    seconds, mfu = record.speed["time"], record.speed["mfu"]
    whole = sum(value for part, value in seconds.items() if part != "evaluation")
    shares = [f"{part} {100 * seconds[part] / whole:.0f}%" for part in ("rollout", "learn") if part in seconds]
    return ", ".join(["", *shares, *([f"MFU {100 * mfu:.0f}%"] if mfu else [])])
