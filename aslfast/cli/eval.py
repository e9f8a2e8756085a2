"""The work of `aslfast eval A [B]`: the policy on questions with known answers; of two, their difference."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.cli.progress import stdout
from aslfast.cli.rollout import Overrides, QuestionSource, open_all, overridden, play, stop_counts
from aslfast.metrics.bootstrap import RESAMPLES, bootstrap_mean, paired_difference
from aslfast.metrics.scoring import METRICS, Proportion, policy_scores, question_scores
from aslfast.trainer.datasets import policy_evals

Report = Mapping[str, Any]  # what --json prints
TITLES = {
    "em": "exact match",
    "sub_em": "sub-EM",
    "cover_em": "cover-EM",
    "f1": "F1",
    "searches": "searches per question",
}


@dataclass(frozen=True)
class TargetScores:
    """The scores of one target."""

    report: Report
    scores: Mapping[str, Sequence[float]]  # metric -> a value a question
    hops: Sequence[int]  # a value a question


def evaluate(targets: Sequence[str], source: QuestionSource, overrides: Overrides, quiet: bool) -> Report:
    """Return the scores of one target, or of two and their difference: same questions and seeds, one at a time.

    The seed is the first target's, unless the overrides set one. Raise UserError.
    """
    for target in targets:
        overridden(target, overrides)  # before hours are spent on another
    first = _evaluate(targets[0], source, overrides, quiet)
    if len(targets) == 1:
        return first.report
    second = _evaluate(targets[1], source, replace(overrides, seed=first.report["seed"]), quiet)
    return {"a": first.report, "b": second.report, "difference": _differences(first, second)}


def _evaluate(target: str, source: QuestionSource, overrides: Overrides, quiet: bool) -> TargetScores:
    session, questions = open_all(target, "policy", source, overrides)
    trajectories, speed = play(session, policy_evals(questions, session.config.model.prompts), "eval", quiet)
    seed, version = session.config.seed, session.version
    del session  # the next one needs its memory
    gc.collect()
    scores = question_scores(trajectories)
    report = {
        "model": target, "data": str(source.data), "index": source.index, "seed": seed, "adapter_version": version,
        **policy_scores(trajectories), "metrics": _means(scores, seed), "resamples": RESAMPLES, **speed,
    }  # fmt: skip
    return TargetScores(report, scores, [question.hops for question in questions])


def _means(scores: Mapping[str, Sequence[float]], seed: int) -> dict[str, dict[str, float]]:
    """Return each metric's mean and interval: Wilson's where all score 0% or 100% and the bootstrap's has no width."""
    means = {}
    for name, values in scores.items():
        constant = name in METRICS and set(values) in ({0.0}, {1.0})
        made = Proportion.of(sum(values), len(values)) if constant else bootstrap_mean(values, seed)
        means[name] = {"value": made.value, "low": made.low, "high": made.high}
    return means


def _differences(a: TargetScores, b: TargetScores) -> dict[str, dict[str, float]]:
    """Return B - A by metric, and of exact match by hops where they are known."""
    pairs = {name: (a.scores[name], b.scores[name]) for name in a.scores}
    for known in sorted(set(a.hops) - {0}):
        kept = [i for i, hops in enumerate(a.hops) if hops == known]
        pairs[f"em_{known}_hops"] = [a.scores["em"][i] for i in kept], [b.scores["em"][i] for i in kept]
    seed = a.report["seed"]
    return {name: asdict(paired_difference(first, second, seed)) for name, (first, second) in pairs.items()}


# --- tables ----------------------------------------------------------------------------------------------------


def print_evaluation(report: Report) -> None:
    """Print the scores of one target, or of two with their differences."""
    _print_pair(report) if "difference" in report else _print_one(report)


def _print_one(scores: Report) -> None:
    made = _table("metric", "value", "95% interval")
    for name, title in TITLES.items():
        metric = scores["metrics"][name]
        made.add_row(title, _value(name, metric["value"]), _interval(name, metric))
        for hops, part in scores["by_hops"].items() if name == "em" else ():
            row = f"{_hops(hops)} (n = {part['n']})"
            made.add_row(row, _value(name, part["accuracy"]), _interval(name, part))
    speed = f"stops: {stop_counts(scores['stops'])}; {scores['tokens_per_s']:,.0f} tokens/s"
    _print([_target(scores), _setting(scores)], made, [speed, f"{_method(scores)}; by hops Wilson's"])


def _print_pair(report: Report) -> None:
    a, b, difference = report["a"], report["b"], report["difference"]
    made = _table("metric", "A", "B", "B - A, points", "95% interval", "p")
    for name, title in TITLES.items():
        values = [_value(name, scores["metrics"][name]["value"]) for scores in (a, b)]
        made.add_row(title, *values, *_difference(name, difference[name]))
        for hops, part in a["by_hops"].items() if name == "em" else ():
            values = [_value(name, scores["by_hops"][hops]["accuracy"]) for scores in (a, b)]
            row = f"{_hops(hops)} (n = {part['n']})"
            made.add_row(row, *values, *_difference(name, difference[f"em_{hops}_hops"]))
    tested = f"{_method(a)}; p: paired sign-flip test, each row on its own"
    _print([f"A: {_target(a)}", f"B: {_target(b)}", _setting(a)], made, [tested])


def _print(before: Sequence[str], table: Table, after: Sequence[str]) -> None:
    console = stdout()
    for part in (*before, table, *after):
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


def _table(*columns: str) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def _target(scores: Report) -> str:
    version = scores["adapter_version"]
    return f"{scores['model']}, {f'adapter v{version:04d}' if version else 'no adapter'}"


def _setting(scores: Report) -> str:
    return f"{scores['n_eval']} questions of {scores['data']}, seed {scores['seed']}"


def _method(scores: Report) -> str:
    return f"intervals: bootstrap over questions, {scores['resamples']:,} resamples"


def _hops(hops: str) -> str:
    return f"  {hops} hop{'s' * (hops != '1')}"


def _value(name: str, mean: float) -> str:
    return f"{mean:.2f}" if name == "searches" else f"{100 * mean:.1f}%"


def _interval(name: str, metric: Mapping[str, float]) -> str:
    return f"{_value(name, metric['low'])} to {_value(name, metric['high'])}"


def _difference(name: str, difference: Mapping[str, float]) -> tuple[str, str, str]:
    """Return a difference, its interval and its p as cells: in percentage points, searches as they are."""
    scale, unit = (1, ".2f") if name == "searches" else (100, ".1f")
    mean, low, high = (scale * difference[key] for key in ("value", "low", "high"))
    return f"{mean:+{unit}}", f"{low:+{unit}} to {high:+{unit}}", f"{difference['p']:.4f}"
