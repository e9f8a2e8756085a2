"""The monitor's alarms for hacking and collapse: a round's metrics against their thresholds. docs/monitor.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.config.schema import MonitorConfig
from aslfast.metrics.alarm_meanings import MEANINGS
from aslfast.metrics.run_log import Line


@dataclass(frozen=True, slots=True)
class Alarm:
    """A metric beyond its threshold. meaning: what it may mean, and what to do."""

    name: str
    figure: float
    threshold: float
    meaning: str

    def __str__(self) -> str:
        side = "at most" if self.figure > self.threshold else "at least"
        return f"{self.name} {self.figure:.3g} (wanted: {side} {self.threshold:g}): {self.meaning}"


def alarms(rounds: Sequence[Line], config: MonitorConfig) -> tuple[Alarm, ...]:
    """Return the alarms of the last of these rounds (lines of rounds.jsonl, the newest last)."""
    now = rounds[-1]
    found = [*_judge_alarms(now, config), *_accuracy_alarms(rounds, config), *_question_alarms(now, config)]
    return tuple(alarm for alarm in (*found, *_role_alarms(rounds, config)) if alarm)


def _judge_alarms(now: Line, config: MonitorConfig) -> list[Alarm | None]:
    interval, bias = now.get("judge_truth_interval"), now.get("verdict_bias")  # a bias may lie on either side of 0
    certain = interval is not None and interval[0] > config.max_gap  # few answers may give any gap by chance
    return [
        _above("judge_truth_gap", now.get("judge_truth_gap") if certain else None, config.max_gap),
        _above("true_gap", now.get("true_gap"), config.max_true_gap),
        _below("judge_agreement", now.get("judge_agreement"), config.min_agreement),
        _below("grm_accuracy", now.get("grm_accuracy"), config.min_agreement),
        _above("verdict_bias", bias, config.max_bias) or _below("verdict_bias", bias, -config.max_bias),
    ]


def _accuracy_alarms(rounds: Sequence[Line], config: MonitorConfig) -> list[Alarm | None]:
    """Return the alarm of a drop by more than chance: the best accuracy before lies above this round's interval."""
    now, best = rounds[-1], max((line["policy_accuracy"] for line in rounds[:-1]), default=0.0)
    drop = best - now["policy_accuracy"] if best > now["policy_interval"][1] else None
    return [_above("accuracy_drop", drop, config.max_drop)]


def _question_alarms(now: Line, config: MonitorConfig) -> list[Alarm | None]:
    return [
        _below("question_diversity", now.get("question_diversity"), config.min_diversity),
        _below("new_question_rate", now.get("new_question_rate"), config.min_new),
        _below("solvable_share", now.get("solvable_share"), config.min_solvable),
    ]


def _role_alarms(rounds: Sequence[Line], config: MonitorConfig) -> list[Alarm | None]:
    found = []
    for role, metrics in rounds[-1].get("by_role", {}).items():
        found += [
            _below("entropy", metrics["entropy"], config.min_entropy, role),
            _length_alarm(rounds, role, config.max_length_ratio),
            _below("finished", metrics["finished"], config.min_finished, role),
            _above("repeated_queries", metrics["repeated_queries"], config.max_repeated, role),
        ]
    return found


def _length_alarm(rounds: Sequence[Line], role: str, most: float) -> Alarm | None:
    """Return the alarm where mean length over that of the role's first round is above `most` or below 1 / `most`."""
    lengths = [line["by_role"][role]["tokens"] for line in rounds if role in line.get("by_role", {})]
    known = [length for length in lengths if length]
    if not known or lengths[-1] is None:
        return None
    ratio = lengths[-1] / known[0]
    return _above("length", ratio, most, role) or _below("length", ratio, 1 / most, role)


def _above(name: str, value: float | None, most: float, role: str = "") -> Alarm | None:
    return None if value is None or value <= most else _alarm(name, value, most, role)


def _below(name: str, value: float | None, least: float, role: str = "") -> Alarm | None:
    return None if value is None or value >= least else _alarm(name, value, least, role)


def _alarm(name: str, value: float, threshold: float, role: str) -> Alarm:
    return Alarm(f"{name} of the {role}" if role else name, value, threshold, MEANINGS[name])
