"""The two files of lines that a run leaves, rounds.jsonl and metrics.jsonl, read for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.files.jsonl import read_lines

Line = Mapping[str, Any]  # of rounds.jsonl or metrics.jsonl, by key: the JSON edge
Prefixes = dict[str, dict[str, int]]  # adapter -> counts of prompt tokens: sampler/prefix_cache_stats.py


def by_role_of(step: Line) -> Mapping[str, Line]:
    """Return what a line of metrics.jsonl says of each role: the whole line where its phase is one role's."""
    return step.get("roles") or {step["phase"]: step}


@dataclass(frozen=True)
class RunLog:
    """The lines of a run: one a round, one an optimizer step."""

    rounds: Sequence[Line]
    steps: Sequence[Line]

    @classmethod
    def read(cls, run: str | Path) -> RunLog:
        """Return the lines of a run's folder. Raise UserError where it is no run, or no round is finished in it."""
        folder = Path(run)
        rounds = _lines(folder / "rounds.jsonl")
        if not rounds:
            raise UserError(f"{folder}/rounds.jsonl: no round is finished in it; train the run first")
        return cls(rounds, _lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else [])

    @property
    def roles(self) -> Sequence[str]:
        """The roles that have played, in order; where all of them are of the shipped recipes, all of these."""
        played = tuple(dict.fromkeys(role for step in self.steps for role in by_role_of(step)))
        return ROLES if set(played) <= set(ROLES) else played

    @property
    def has_own_roles(self) -> bool:
        """Whether roles have played that the shipped recipes lack."""
        return self.roles != ROLES

    def reward(self, round_number: int, role: str) -> float | None:
        """Return the mean reward over the role's steps in a round; None without any."""
        return self.mean(round_number, role, "reward")

    def mean(self, round_number: int, role: str, key: str) -> float | None:
        """Return the mean of a metric over the role's steps in a round; None without any."""
        lines = [by_role_of(step).get(role, {}) for step in self.steps if step["round"] == round_number]
        seen = [line[key] for line in lines if key in line]
        return sum(seen) / len(seen) if seen else None

    def hops(self) -> list[str]:
        """Return the numbers of hops that the held-out questions have, in order."""
        return sorted({hops for line in self.rounds for hops in line.get("by_hops", {})}, key=int)

    def prefix_cache(self) -> Prefixes:
        """Return the counts of prompt tokens, reusable and reused ones, by adapter, summed over all steps."""
        totals: Prefixes = {}
        for name, counts in (item for step in self.steps for item in step.get("prefix_cache", {}).items()):
            total = totals.setdefault(name, dict.fromkeys(counts, 0))
            for key, count in counts.items():
                total[key] += count
        return totals

    def seconds_by_phase(self) -> dict[str, dict[str, float]]:
        """Return where the time went: wall seconds by part, by phase, summed over its steps; empty for a run of an
        earlier version. A step's time begins with the end of the one before it."""
        totals: dict[str, dict[str, float]] = {}
        for step in self.steps:
            for part, seconds in step.get("time", {}).items():
                own = totals.setdefault(step["phase"], {})
                own[part] = own.get(part, 0.0) + seconds
        return totals

    def learner_utilization(self, phase: str) -> float | None:
        """Return the learner's MFU over the steps of a phase; None where it took no step."""
        steps = [(s["mfu"], s["time"]["learn"]) for s in self.steps if s["phase"] == phase and s.get("mfu")]
        seconds = sum(learn for _, learn in steps)
        return sum(mfu * learn for mfu, learn in steps) / seconds if seconds else None

    def most(self, phase: str, key: str, inner: str = "") -> float | None:
        """Return the largest value of a metric over the steps of a phase; None without any."""
        lines = [step for step in self.steps if step["phase"] == phase and key in step]
        return max((line[key][inner] if inner else line[key] for line in lines), default=None)

    def has_alarms(self) -> bool:
        """Return whether a monitor watched the run: runs of an earlier version have none."""
        return any("alarms" in line for line in self.rounds)

    def gain(self) -> float:
        """Return the gain in policy accuracy from round 0 to the last, in percentage points."""
        return 100 * (self.rounds[-1]["policy_accuracy"] - self.rounds[0]["policy_accuracy"])

    def sentence(self) -> str:
        """Return the run's result in one sentence."""
        first, last = self.rounds[0], self.rounds[-1]
        return (
            f"Policy accuracy on {last['n_eval']} held-out questions: "
            f"{100 * first['policy_accuracy']:.1f}% for the base, "
            f"{100 * last['policy_accuracy']:.1f}% after round {last['round']}: {self.gain():+.1f} points."
        )

    def as_json(self) -> dict[str, object]:
        """Return what `aslfast report --json` prints of the run."""
        rewards = [{role: self.reward(line["round"], role) for role in self.roles} for line in self.rounds]
        return {
            "rounds": [{**line, "rewards": seen} for line, seen in zip(self.rounds, rewards, strict=True)],
            "policy_gain_points": self.gain(),
            "prefix_cache": self.prefix_cache(),
            "time": self.seconds_by_phase(),
        }


def _lines(file: Path) -> list[Line]:
    try:
        lines = read_lines(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name the folder of a run") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON lines ({error}); the run is damaged") from error
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or "round" not in line:
            raise UserError(f"{file}:{number}: not a line of a run; the run is damaged")
    return [*lines]
