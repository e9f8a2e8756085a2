"""The figures of an evaluation, from its rows: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from aslfast.metrics.bootstrap import bootstrap_mean, paired_difference
from aslfast.metrics.judge_probe import JudgedAttempt, judge_metrics
from aslfast.metrics.scoring import Proportion
from aslfast.rewards.verdicts import as_label

Rows: TypeAlias = Sequence[Mapping[str, Any]]  # played.py writes them
Figures: TypeAlias = dict[str, Any]
SCORED = ("em", "f1")  # with bootstrap intervals over the questions


def policy_figures(rows: Rows, gold_found: Sequence[bool], seed: int) -> Figures:
    """Return the policy's figures. gold_found: whether its own queries found the gold passage, by question."""
    well_formed = sum(row["stop"] == "finished" for row in rows)
    return {
        "n": len(rows),
        **{name: asdict(bootstrap_mean(_values(rows, name), seed)) for name in SCORED},
        "well_formed": asdict(Proportion.of(well_formed, len(rows))),
        "searches": sum(_values(rows, "searches")) / len(rows),
        "sampled_tokens": sum(_values(rows, "tokens")) / len(rows),
        # nats a token: minus the mean log-prob of what is sampled
        "entropy": sum(_values(rows, "entropy")) / len(rows),
        "gold_found": asdict(Proportion.of(sum(gold_found), len(rows))),
        "stops": dict(Counter(row["stop"] for row in rows)),
    }


def differences(first: Rows, second: Rows, seed: int) -> Figures:
    """Return second - first on the same questions, with its paired interval and p. Raise ValueError for others."""
    if [row["id"] for row in first] != [row["id"] for row in second]:
        raise ValueError("the two evaluations have other questions")
    return {name: asdict(paired_difference(_values(first, name), _values(second, name), seed)) for name in SCORED}


def judge_figures(rows: Rows, seed: int) -> Figures:
    """Return the judge's figures on a right and a wrong answer to each question.

    balanced accuracy: the mean over questions of (right answer called correct + wrong one called wrong) / 2, with the
    bootstrap interval over questions. unreadable: verdicts that are neither, which count as wrong.
    """
    right, wrong = (_verdicts(rows, label) for label in ("correct", "wrong"))
    by_question = [(right[id_] == "correct") / 2 + (wrong[id_] == "wrong") / 2 for id_ in right]
    given = [*right.values(), *wrong.values()]
    return {
        "n": len(rows),
        "balanced_accuracy": asdict(bootstrap_mean(by_question, seed)),
        "right_called_correct": _share(right, "correct"),
        "wrong_called_wrong": _share(wrong, "wrong"),
        "unreadable": given.count(None) / len(given),
    }


def probe_figures(answered: Rows, verdicts: Rows, seed: int) -> Figures:
    """Return the judge's pass rate beside the truth on the policy's own answers: metrics/judge_probe.py."""
    given = {row["id"]: as_label(row["verdict"]) for row in verdicts}
    attempts = [JudgedAttempt(bool(row["em"]), row["output"] is not None, given.get(row["id"])) for row in answered]
    return {**judge_metrics(attempts, seed)}


def ceiling_figures(found: Mapping[str, Sequence[bool]]) -> Figures:
    """Return how often each kind of query finds the gold passage."""
    return {name: asdict(Proportion.of(sum(hits), len(hits))) for name, hits in found.items()}


def _verdicts(rows: Rows, label: str) -> dict[str, str | None]:
    """Return the verdict on each question's answer of this label."""
    return {row["id"]: as_label(row["verdict"]) for row in rows if row["label"] == label}


def _share(verdicts: Mapping[str, str | None], label: str) -> float:
    return sum(verdict == label for verdict in verdicts.values()) / len(verdicts)


def _values(rows: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in rows]
