"""What the monitor looks at, as numbers: the judge against the truth, and how the roles behave. docs/monitor.md.

Pure functions of trajectories, verdicts and lines. Nothing here reaches a reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aslfast import rewards
from aslfast.core import Group, Reward, Role, StopReason, Trajectory
from aslfast.metrics.bootstrap import paired_difference
from aslfast.prompts.role_tasks import parse_call, without_thinking

Oracle = Callable[[str], str | None]  # a question -> its true answer, or None

LEAST_OF_A_KIND = 10  # right answers, and wrong ones: shares of fewer say nothing about a judge
MOST_QUESTIONS = 256  # of a step that are compared, each with each: 33,000 pairs
OF_A_ROLE = ("tokens", "entropy", "finished", "repeated_queries")


# --- the probe: the judge on held-out answers ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probed:
    """A held-out attempt: whether it is truly right, and the side that the judge takes ("correct", "wrong" or None).

    An attempt without an answer has no side, as it has no reward.
    """

    right: bool
    answered: bool
    side: str | None

    @property
    def passed(self) -> bool:
        return self.side == "correct"


def probed(attempts: Sequence[Trajectory], verdicts: Sequence[Trajectory], variant: str) -> list[Probed]:
    """verdicts: one for each attempt with an answer, in their order. Left out is what the tool failed."""
    given = iter(verdicts)
    pairs = [(attempt, next(given) if attempt.output is not None else attempt) for attempt in attempts]
    return [
        Probed(
            rewards.exact_match(attempt.output, attempt.task.references),
            attempt.output is not None,
            rewards.as_label(rewards.offered(verdict.output, variant)) if attempt.output is not None else None,
        )
        for attempt, verdict in pairs
        if verdict.stop is not StopReason.TOOL_FAILED
    ]


def probe_figures(tried: Sequence[Probed], seed: int) -> dict[str, Any]:
    """judge_share J = passed / n, truth_share T = right / n, judge_truth_gap = J - T (from -1 to 1) with the interval
    of the paired bootstrap; agreement and bias of the verdicts on answers. None where there is nothing to tell from."""
    names = ("judge_pass_rate", "judge_probe_accuracy", "judge_truth_gap", "judge_truth_interval")
    shares: dict[str, Any] = dict.fromkeys(names)
    if tried:
        right, passed = [float(p.right) for p in tried], [float(p.passed) for p in tried]
        gap = paired_difference(right, passed, seed)
        values = sum(passed) / len(tried), sum(right) / len(tried), gap.value, [gap.low, gap.high]
        shares = dict(zip(names, values, strict=True))
    return {**shares, **_of_verdicts([p for p in tried if p.answered]), "n_judge_probe": len(tried)}


def _of_verdicts(answers: Sequence[Probed]) -> dict[str, float | None]:
    """judge_agreement = (share of right answers called correct + share of wrong ones called wrong) / 2;
    verdict_bias = (share of right answers called correct + share of wrong ones called correct) / 2 - 1/2."""
    right, wrong = [p for p in answers if p.right], [p for p in answers if not p.right]
    if min(len(right), len(wrong)) < LEAST_OF_A_KIND:
        return {"judge_agreement": None, "verdict_bias": None}
    seen, caught = _share(p.passed for p in right), _share(p.side == "wrong" for p in wrong)
    return {
        "judge_agreement": (seen + caught) / 2,
        "verdict_bias": (seen + _share(p.passed for p in wrong)) / 2 - 0.5,
    }


def _share(hits: Iterable[bool]) -> float:
    """Of one hit at least."""
    listed = list(hits)
    return sum(listed) / len(listed)


# --- a step: what the roles do ---------------------------------------------------------------------------------------


def step_figures(role: Role, groups: Sequence[Group], oracle: Oracle | None) -> dict[str, Any]:
    """For the step's line of metrics.jsonl, beside `entropy` and `finished`. oracle: of the world to learn in."""
    trajectories = [t for group in groups for t in group.trajectories]
    figures: dict[str, Any] = {
        "tokens": sum(t.n_sampled for t in trajectories) / len(trajectories),
        "repeated_queries": repeated_queries(trajectories),
    }
    if role == "generator":
        figures["question_diversity"] = diversity([t.output for t in trajectories if t.output is not None])
        figures["solvable"] = _solvable(trajectories, oracle) if oracle else None
    if role == "policy":
        given = [reward for group in groups for reward in group.rewards]
        figures |= true_figures(trajectories, given, oracle or (lambda _: None))
    return figures


def repeated_queries(trajectories: Sequence[Trajectory]) -> float:
    """Of all search queries the share that its own trajectory had sent before (equal when normalised); 0 of none."""
    sent = [[rewards.normalize(query) for query in _queries(t)] for t in trajectories]
    return sum(len(own) - len(set(own)) for own in sent) / max(1, sum(map(len, sent)))


def _queries(trajectory: Trajectory) -> list[str]:
    calls = [parse_call(without_thinking(turn.text)) for turn in trajectory.turns if turn.kind == "sampled"]
    return [query for call in calls if call for query in call.queries]


def diversity(questions: Sequence[str]) -> float | None:
    """1 - mean of question_similarity over all pairs: from 0 (all the same) to 1 (no common word). None below two.

    The unbiased estimate of how unlike two questions of this generator are, whatever their number. If a share p of
    them is one and the same, it is about 1 - p^2 times that of the others.
    """
    pairs = list(itertools.combinations(questions[:MOST_QUESTIONS], 2))
    return 1 - sum(rewards.question_similarity(*pair) for pair in pairs) / len(pairs) if pairs else None


def _solvable(written: Sequence[Trajectory], oracle: Oracle) -> float:
    """The share whose question has an answer, and the right one with it."""
    truths = [oracle(t.output) if t.output is not None else None for t in written]
    return _share(
        truth is not None and rewards.exact_match(t.output_answer, [truth])
        for t, truth in zip(written, truths, strict=True)
    )


def true_figures(tried: Sequence[Trajectory], given: Sequence[Reward], oracle: Oracle) -> dict[str, Any]:
    """true_reward: the share of attempts that are truly right, of those whose question the oracle can answer; true_gap:
    what the same attempts were paid on average, the format reward apart, less that. None each where it can none."""
    truths = [oracle(t.task.question) for t in tried]
    known = [(t, r, truth) for t, r, truth in zip(tried, given, truths, strict=True) if truth is not None]
    if not known:
        return {"true_reward": None, "true_gap": None}
    right = _share(rewards.exact_match(t.output, [truth]) for t, _, truth in known)
    paid = sum(r.total - r.parts.get("format", 0.0) for _, r, _ in known) / len(known)
    return {"true_reward": right, "true_gap": paid - right}


# --- a round: means over its steps -----------------------------------------------------------------------------------


def round_figures(steps: Sequence[Mapping[str, Any]], pool: int, pool_before: int) -> dict[str, Any]:
    """Means over the trajectories of one round, from its lines of metrics.jsonl; and what it brought the pool.

    new_share: of the questions that were asked for those that entered, near-duplicates and what failed the gate apart.
    """
    asked = sum(step["trajectories"] for step in steps if step["phase"] == "generator")
    by_role = {
        role: {key: _mean([step for step in steps if step["phase"] == role], key) for key in OF_A_ROLE}
        for role in dict.fromkeys(step["phase"] for step in steps)
    }
    return {
        "by_role": by_role,
        **{key: _mean(steps, key) for key in ("question_diversity", "true_reward", "true_gap")},
        "pool": pool,
        "new_questions": pool - pool_before,
        "new_question_rate": (pool - pool_before) / asked if asked else None,
    }


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Over the trajectories of the steps that know it; None where none does."""
    known = [(step[key], step["trajectories"]) for step in steps if step.get(key) is not None]
    return sum(value * n for value, n in known) / sum(n for _, n in known) if known else None
