"""`aslfast eval A [B]`: the policy of a run or a model on questions with known answers; of two, their difference."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.cli.progress import stdout
from aslfast.cli.rollout import counts, open_all, play, with_settings
from aslfast.metrics.bootstrap import RESAMPLES, bootstrap_mean, paired_difference
from aslfast.metrics.scoring import METRICS, Proportion, policy_scores, question_scores
from aslfast.trainer.datasets import policy_evals

TITLES = {
    "em": "exact match",
    "sub_em": "sub-EM",
    "cover_em": "cover-EM",
    "f1": "F1",
    "searches": "searches a question",
}


@dataclass(frozen=True)
class Measured:
    """One target. `report` is what --json prints of it."""

    report: dict[str, Any]
    scores: dict[str, list[float]]  # metric -> a value a question
    hops: list[int]


def evaluate(
    targets: Sequence[str], data: Path, index: str, limit: int | None, settings: Mapping[str, Any], quiet: bool
) -> dict[str, Any]:
    """The scores of one target, or of two and their difference: same questions, same seeds, one in memory at a time.

    The seed is that of the first target, unless the settings name one. Raises UserError.
    """
    for target in targets:
        with_settings(target, settings)  # before hours are spent on another
    first = _measure(targets[0], data, index, limit, settings, quiet)
    if len(targets) == 1:
        return first.report
    second = _measure(targets[1], data, index, limit, {**settings, "seed": first.report["seed"]}, quiet)
    return {"a": first.report, "b": second.report, "difference": _differences(first, second)}


def _measure(
    target: str, data: Path, index: str, limit: int | None, settings: Mapping[str, Any], quiet: bool
) -> Measured:
    opened, questions = open_all(target, "policy", data, index, limit, settings)
    trajectories, speed = play(opened, policy_evals(questions, opened.config.model.prompts), "eval", quiet)
    seed, version = opened.config.seed, opened.version
    del opened  # the next one needs its memory
    gc.collect()
    scores = question_scores(trajectories)
    report = {
        "model": target, "data": str(data), "index": index, "seed": seed, "adapter_version": version,
        **policy_scores(trajectories), "metrics": _means(scores, seed), "resamples": RESAMPLES, **speed,
    }  # fmt: skip
    return Measured(report, scores, [question.hops for question in questions])


def _means(scores: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Each metric's mean and interval. Where all score 0%, or all 100%, Wilson's: the bootstrap's has no width."""
    means = {}
    for name, values in scores.items():
        flat = name in METRICS and set(values) in ({0.0}, {1.0})
        made = Proportion.of(sum(values), len(values)) if flat else bootstrap_mean(values, seed)
        means[name] = {"value": made.value, "low": made.low, "high": made.high}
    return means


def _differences(a: Measured, b: Measured) -> dict[str, Any]:
    """B - A by metric, and of exact match by hops where they are known."""
    pairs = {name: (a.scores[name], b.scores[name]) for name in a.scores}
    for known in sorted(set(a.hops) - {0}):
        kept = [i for i, hops in enumerate(a.hops) if hops == known]
        pairs[f"em_{known}_hops"] = [a.scores["em"][i] for i in kept], [b.scores["em"][i] for i in kept]
    seed = a.report["seed"]
    return {name: asdict(paired_difference(first, second, seed)) for name, (first, second) in pairs.items()}


# --- tables ----------------------------------------------------------------------------------------------------


def print_evaluation(result: Mapping[str, Any]) -> None:
    _print_pair(result) if "difference" in result else _print_one(result)


def _print_one(scores: Mapping[str, Any]) -> None:
    made = _table("metric", "value", "95% interval")
    for name, title in TITLES.items():
        metric = scores["metrics"][name]
        made.add_row(title, _value(name, metric["value"]), _range(name, metric))
        for hops, share in scores["by_hops"].items() if name == "em" else ():
            row = f"{_hops(hops)} (n = {share['n']})"
            made.add_row(row, _value(name, share["accuracy"]), _range(name, share))
    speed = f"stops: {counts(scores['stops'])}; {scores['tokens_per_s']:,.0f} tokens/s"
    _print([_named(scores), _setting(scores)], made, [speed, f"{_intervals(scores)}; by hops Wilson's"])


def _print_pair(result: Mapping[str, Any]) -> None:
    a, b, difference = result["a"], result["b"], result["difference"]
    made = _table("metric", "A", "B", "B - A, points", "95% interval", "p")
    for name, title in TITLES.items():
        values = [_value(name, scores["metrics"][name]["value"]) for scores in (a, b)]
        made.add_row(title, *values, *_compared(name, difference[name]))
        for hops, share in a["by_hops"].items() if name == "em" else ():
            values = [_value(name, scores["by_hops"][hops]["accuracy"]) for scores in (a, b)]
            row = f"{_hops(hops)} (n = {share['n']})"
            made.add_row(row, *values, *_compared(name, difference[f"em_{hops}_hops"]))
    tested = f"{_intervals(a)}; p: paired sign-flip test, each row on its own"
    _print([f"A: {_named(a)}", f"B: {_named(b)}", _setting(a)], made, [tested])


def _print(before: Sequence[str], table: Table, after: Sequence[str]) -> None:
    console = stdout()
    for part in (*before, table, *after):
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


def _table(*columns: str) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def _named(scores: Mapping[str, Any]) -> str:
    version = scores["adapter_version"]
    return f"{scores['model']}, {f'adapter v{version:04d}' if version else 'no adapter'}"


def _setting(scores: Mapping[str, Any]) -> str:
    return f"{scores['n_eval']} questions of {scores['data']}, seed {scores['seed']}"


def _intervals(scores: Mapping[str, Any]) -> str:
    return f"intervals: bootstrap over questions, {scores['resamples']:,} resamples"


def _hops(hops: str) -> str:
    return f"  {hops} hop{'s' * (hops != '1')}"


def _value(name: str, mean: float) -> str:
    return f"{mean:.2f}" if name == "searches" else f"{100 * mean:.1f}%"


def _range(name: str, metric: Mapping[str, float]) -> str:
    return f"{_value(name, metric['low'])} to {_value(name, metric['high'])}"


def _compared(name: str, difference: Mapping[str, float]) -> tuple[str, str, str]:
    scale, unit = (1, ".2f") if name == "searches" else (100, ".1f")
    mean, low, high = (scale * difference[key] for key in ("value", "low", "high"))
    return f"{mean:+{unit}}", f"{low:+{unit}} to {high:+{unit}}", f"{difference['p']:.4f}"
