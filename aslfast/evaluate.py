"""True accuracy, against references or the lab's oracle: never against what the roles say of each other."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast import reward
from aslfast.core import Trajectory
from aslfast.errors import UserError
from aslfast.roles import valid_question

Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its accepted answers. hops 0: unknown."""

    id: str
    question: str
    answers: tuple[str, ...]
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A share of n with its 95% Wilson interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: float, n: int) -> Share:
        """Wilson 1927: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)."""
        if n == 0:
            return cls(0.0, 0.0, 1.0, 0)
        p, z2 = hits / n, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return cls(p, max(0.0, centre - half), min(1.0, centre + half), n)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Questions from Parquet or JSONL with columns question and answers (or golden_answers), optionally id and hops."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such question file")
    rows = _jsonl_rows(file) if file.suffix in (".jsonl", ".json") else _parquet_rows(file)
    questions = [_question(row, f"{file}: {place}", number) for number, (place, row) in enumerate(rows[:limit], 1)]
    if not questions:
        raise UserError(f"{file}: no questions in it; give a file with at least one")
    return questions


Rows = list[tuple[str, dict[str, Any]]]  # where each stands, what it holds


def _parquet_rows(file: Path) -> Rows:
    try:
        return [(f"row {number}", row) for number, row in enumerate(pq.read_table(file).to_pylist(), 1)]
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: not a Parquet file ({reason}); questions come as .parquet or .jsonl") from error


def _jsonl_rows(file: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = "one object a line with question and answers"
            raise UserError(f"{file}: line {number} is not JSON; {remedy}") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}: line {number} is no JSON object; it needs question and answers")
        rows.append((f"line {number}", row))
    return rows


def _question(row: dict[str, Any], place: str, number: int) -> Question:
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: field 'question' is missing or empty; give the question's text")
    answers = row.get("answers", row.get("golden_answers", row.get("answer")))
    answers = [answers] if isinstance(answers, str) else _rejoined(answers)
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UserError(f"{place}: field 'answers' is missing or empty; give a list of accepted answers")
    hops, id_ = row.get("hops"), row.get("id")
    whole = [_whole(item) for item in (str(number if id_ is None else id_), text, *answers)]
    return Question(whole[0], whole[1], tuple(whole[2:]), hops if isinstance(hops, int) else 0)


def _whole(text: str) -> str:
    """The text with "?" for half a surrogate pair: JSON can spell it, UTF-8 cannot hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _rejoined(answers: Any) -> Any:
    """Natural Questions as often published: lists that a conversion took apart: ["[", "'", "A", "'", "]"] -> ["A"]."""
    letters = isinstance(answers, list) and all(isinstance(a, str) and len(a) == 1 for a in answers)
    if not letters or len(answers) < 3:
        return answers
    text = "".join(answers)
    if not (text.startswith("[") and text.endswith("]")):
        return answers
    return [part.strip(" '`\"") for part in re.split(r"(?<=['\"])\s*,\s*|\s*,\s*(?=['\"])", text[1:-1])]


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    rows = [{"id": q.id, "question": q.question, "answers": list(q.answers), "hops": q.hops} for q in questions]
    pq.write_table(pa.Table.from_pylist(rows), path)


def policy_scores(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Exact match (the accuracy), containment and F1 over the trajectories' references; accuracy by hops too."""
    hits = [reward.exact_match(t.output, t.task.references) for t in trajectories]
    by_hops = {}
    for hops in sorted({t.task.hops for t in trajectories} - {0}):
        own = [hit for hit, t in zip(hits, trajectories, strict=True) if t.task.hops == hops]
        by_hops[str(hops)] = _plain(Share.of(sum(own), len(own)))
    n, stops = len(trajectories), [t.stop.value for t in trajectories]
    return {
        "policy_accuracy": sum(hits) / n,
        "policy_interval": _interval(Share.of(sum(hits), n)),
        "by_hops": by_hops,
        "contains": sum(reward.contains_match(t.output, t.task.references) for t in trajectories) / n,
        "f1": sum(reward.f1(t.output, t.task.references) for t in trajectories) / n,
        "searches": sum(t.tool_calls for t in trajectories) / n,
        "n_eval": n,
        "stops": {stop: stops.count(stop) for stop in sorted(set(stops))},
    }


def grm_scores(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Balanced accuracy: the mean of the shares of right and of wrong answers that are judged as such."""
    shares = {}
    for label in ("correct", "wrong"):
        own = [t.output == label for t in trajectories if t.task.references == (label,)]
        shares[label] = Share.of(sum(own), len(own))
    balanced = (shares["correct"].value + shares["wrong"].value) / 2
    interval = _interval(Share.of(balanced * len(trajectories), len(trajectories)))
    return {
        "grm_accuracy": balanced,
        "grm_interval": interval,
        "grm_on_right": shares["correct"].value,
        "grm_on_wrong": shares["wrong"].value,
    }


def generator_scores(trajectories: Sequence[Trajectory], oracle: Callable[[str], str | None]) -> dict[str, Any]:
    """solvable_share: questions that the oracle can solve and whose reference is right, of all that were asked for."""
    valid = [t for t in trajectories if t.output is not None and valid_question(t.output)]
    truths = [(t, oracle(t.output or "")) for t in valid]
    solvable = [(t, truth) for t, truth in truths if truth is not None]
    right = sum(reward.exact_match(t.output_answer, [truth]) for t, truth in solvable)
    n = len(trajectories)
    return {
        "solvable_share": right / n,
        "solvable_interval": _interval(Share.of(right, n)),
        "valid_share": len(valid) / n,
        "reference_right": right / len(valid) if valid else 0.0,
    }


def _interval(share: Share) -> list[float]:
    return [share.low, share.high]


def _plain(share: Share) -> dict[str, float]:
    return {"accuracy": share.value, "low": share.low, "high": share.high, "n": share.n}

