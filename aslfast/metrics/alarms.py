"""The monitor of hacking and collapse: a round's figures against thresholds, and what is said of those beyond.

It reads the lines of a run, so that a resumed run says what a run without a kill would have said. docs/monitor.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aslfast.config.schema import MonitorConfig
from aslfast.errors import UserError
from aslfast.metrics.health import round_figures

Lines = Sequence[Mapping[str, Any]]  # of rounds.jsonl, the newest last


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure beyond its threshold. meaning: what it may mean, and what to do."""

    name: str
    figure: float
    threshold: float
    meaning: str

    def __str__(self) -> str:
        side = "at most" if self.figure > self.threshold else "at least"
        return f"{self.name} {self.figure:.3g} (wanted: {side} {self.threshold:g}): {self.meaning}"


MENDS_THE_JUDGE = "let the judge learn too (grm.learn), take its labels by majority or consensus (grm.label)"
BETTER_JUDGE = "start from a better one (roles.grm.init_adapter), or from a prompt that it can follow (grm.variant)"
MEANINGS = {
    "judge_truth_gap": "the judge passes wrong held-out answers, which the policy may learn to write: "
    f"{MENDS_THE_JUDGE}",
    "true_gap": f"the policy is paid for wrong answers, so it is learning to please the judge: {MENDS_THE_JUDGE}",
    "judge_agreement": "on the policy's answers the judge is near a coin flip or worse, and its verdicts teach noise: "
    f"{BETTER_JUDGE}; {MENDS_THE_JUDGE}",
    "grm_accuracy": f"the judge is near a coin flip or worse, and its verdicts teach noise: {BETTER_JUDGE}; "
    f"{MENDS_THE_JUDGE}",
    "verdict_bias": "the judge gives nearly the same verdict to right and wrong answers: see that its labels hold both "
    f"sides; {MENDS_THE_JUDGE}",
    "accuracy_drop": "the policy answers worse than in its best round: go on from that round's adapters "
    "(roles.policy.init_adapter) with a lower learner.learning_rate, and look at the judge's figures",
    "question_diversity": "the generator repeats itself, and the policy learns a few questions by heart: more topics "
    "(data.topics), a reward that pays for difference (generator.reward=r_zero), fewer generator.steps",
    "new_question_rate": "hardly any question is new and passes the gate: look at the generator's trajectories; "
    "generator.min_acceptance may be too high, data.topics too few",
    "solvable_share": "most questions have no answer or a wrong one: a higher generator.min_acceptance, a better judge, "
    "labels that do not trust the reference (grm.label=majority)",
    "entropy": "the role hardly varies its samples, so groups are equal and teach nothing: a higher "
    "sampler.temperature, a lower learner.learning_rate, fewer steps",
    "length": "the role's texts grow or shrink out of proportion: read some of its trajectories; a longer text may "
    "please the judge, a shorter one may skip the search",
    "finished": "many trajectories end without an output: read their stop reasons; sampler.max_new_tokens or "
    "sampler.max_turns may be too low, or the role has lost the format (format_weight)",
    "repeated_queries": "the role asks the same again instead of reading what was found: read its trajectories; fewer "
    "turns (sampler.max_turns) make it cost",
}  # fmt: skip


def alarms(rounds: Lines, config: MonitorConfig) -> tuple[Alarm, ...]:
    """Of the last of these rounds."""
    found = [*_of_judge(rounds[-1], config), *_of_truth(rounds, config), *_of_questions(rounds[-1], config)]
    return tuple(alarm for alarm in (*found, *_of_roles(rounds, config)) if alarm)


def _of_judge(now: Mapping[str, Any], config: MonitorConfig) -> list[Alarm | None]:
    interval, bias = now.get("judge_truth_interval"), now.get("verdict_bias")  # which may be far off either way
    certain = interval is not None and interval[0] > config.max_gap  # few answers may give any gap by chance
    return [
        _above("judge_truth_gap", now.get("judge_truth_gap") if certain else None, config.max_gap),
        _above("true_gap", now.get("true_gap"), config.max_true_gap),
        _below("judge_agreement", now.get("judge_agreement"), config.min_agreement),
        _below("grm_accuracy", now.get("grm_accuracy"), config.min_agreement),
        _above("verdict_bias", bias, config.max_bias) or _below("verdict_bias", bias, -config.max_bias),
    ]


def _of_truth(rounds: Lines, config: MonitorConfig) -> list[Alarm | None]:
    """Below the best round before by more than chance: its accuracy is above this round's interval."""
    now, best = rounds[-1], max((line["policy_accuracy"] for line in rounds[:-1]), default=0.0)
    drop = best - now["policy_accuracy"] if best > now["policy_interval"][1] else None
    return [_above("accuracy_drop", drop, config.max_drop)]


def _of_questions(now: Mapping[str, Any], config: MonitorConfig) -> list[Alarm | None]:
    return [
        _below("question_diversity", now.get("question_diversity"), config.min_diversity),
        _below("new_question_rate", now.get("new_question_rate"), config.min_new),
        _below("solvable_share", now.get("solvable_share"), config.min_solvable),
    ]


def _of_roles(rounds: Lines, config: MonitorConfig) -> list[Alarm | None]:
    found = []
    for role, figures in rounds[-1].get("by_role", {}).items():
        found += [
            _below("entropy", figures["entropy"], config.min_entropy, role),
            _length(rounds, role, config.max_length_ratio),
            _below("finished", figures["finished"], config.min_finished, role),
            _above("repeated_queries", figures["repeated_queries"], config.max_repeated, role),
        ]
    return found


def _length(rounds: Lines, role: str, most: float) -> Alarm | None:
    """Mean length over that of the role's first round: above `most`, or below 1 / `most`."""
    lengths = [line["by_role"][role]["tokens"] for line in rounds if role in line.get("by_role", {})]
    known = [length for length in lengths if length]
    if not known or lengths[-1] is None:
        return None
    ratio = lengths[-1] / known[0]
    return _above("length", ratio, most, role) or _below("length", ratio, 1 / most, role)


def _above(name: str, figure: float | None, most: float, role: str = "") -> Alarm | None:
    if figure is None or figure <= most:
        return None
    return Alarm(_of(name, role), figure, most, MEANINGS[name])


def _below(name: str, figure: float | None, least: float, role: str = "") -> Alarm | None:
    if figure is None or figure >= least:
        return None
    return Alarm(_of(name, role), figure, least, MEANINGS[name])


def _of(name: str, role: str) -> str:
    return f"{name} of the {role}" if role else name


# --- in a run --------------------------------------------------------------------------------------------------------


def monitor_round(
    now: Mapping[str, Any], steps: Lines, before: Lines, pool: int, config: MonitorConfig
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the health metrics of a round and its alarms.

    now: the round's scores, as rounds.jsonl has them. steps, before: the run's step and round records so far. pool:
    the number of questions in the question pool.
    """
    pool_before = before[-1].get("pool", 0) if before else 0
    health = round_figures([step for step in steps if step["round"] == now["round"]], pool, pool_before)
    return health, [asdict(alarm) for alarm in alarms([*before, {**now, **health}], config)]


def alarms_of(line: Mapping[str, Any]) -> list[str]:
    """What a line of rounds.jsonl alarms about, a sentence each."""
    return [f"round {line['round']}: alarm: {Alarm(**values)}" for values in line.get("alarms", ())]


def check(line: Mapping[str, Any], config: MonitorConfig, resume_command: str) -> None:
    """Raises UserError where the run is to end for an alarm of this round."""
    if config.stop and line["alarms"]:
        names = "; ".join(str(Alarm(**{**values, "meaning": ""})).rstrip(": ") for values in line["alarms"])
        raise UserError(
            f"monitor.stop: round {line['round']} ended the run with an alarm ({names}); docs/monitor.md says what to "
            f"do, and a new run can start from its adapters; to go on all the same: {resume_command}"
        )
