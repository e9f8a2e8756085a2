"""How the roles behave, as numbers: of one step, and over the steps of a round. docs/monitor.md.

Pure functions of trajectories, rewards and lines. Nothing here reaches a reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from aslfast import rewards
from aslfast.core import Group, Reward, Trajectory
from aslfast.metrics.run_log import Line, by_role_of
from aslfast.prompts.parsing import without_thinking
from aslfast.prompts.tool_calls import NO_LIMIT, parse_calls

# a question -> its true answer, or all right spellings of it; None or () where it has none
Oracle = Callable[[str], str | Sequence[str] | None]

MOST_QUESTIONS = 256  # of a step that are compared, each with each: 33,000 pairs
ROLE_METRICS = ("tokens", "entropy", "finished", "repeated_queries")


def step_health(groups: Sequence[Group]) -> dict[str, float | None]:
    """Return the monitor's metrics of any role's step, for its line, along with `entropy` and `finished`."""
    trajectories = _trajectories(groups)
    return {
        "tokens": sum(t.n_sampled for t in trajectories) / len(trajectories),
        "repeated_queries": repeated_queries(trajectories),
    }


def question_health(groups: Sequence[Group], oracle: Oracle | None) -> dict[str, float | None]:
    """Return the metrics of a step that wrote questions. oracle: of the world to learn in."""
    trajectories = _trajectories(groups)
    return {
        "question_diversity": diversity([t.output for t in trajectories if t.output is not None]),
        "solvable": _solvable(trajectories, oracle) if oracle else None,
    }


def answer_health(groups: Sequence[Group], oracle: Oracle | None) -> dict[str, float | None]:
    """Return the metrics of a step that answered questions. oracle: of the world to learn in."""
    given = [reward for group in groups for reward in group.rewards]
    return reward_against_truth(_trajectories(groups), given, oracle or (lambda _: None))


def _trajectories(groups: Sequence[Group]) -> list[Trajectory]:
    return [t for group in groups for t in group.trajectories]


def repeated_queries(trajectories: Sequence[Trajectory]) -> float:
    """Return the fraction of search queries that their own trajectory had sent before; 0 without any query.

    Queries are equal when normalised.
    """
    sent = [[rewards.normalize(query) for query in queries_of(t)] for t in trajectories]
    return sum(len(own) - len(set(own)) for own in sent) / max(1, sum(map(len, sent)))


def queries_of(trajectory: Trajectory) -> list[str]:
    """Return the search queries of a trajectory, in order."""
    turns = [without_thinking(turn.said) for turn in trajectory.turns if turn.kind == "sampled"]
    return [query for turn in turns for call in parse_calls(turn, NO_LIMIT) or () for query in call.queries]


def diversity(questions: Sequence[str]) -> float | None:
    """Return 1 - mean of question_similarity over all pairs: from 0 (all the same) to 1 (no common word).

    The unbiased estimate of how unlike two questions of this generator are, whatever their number; None below two. If a
    fraction p of them is one and the same, it is about 1 - p^2 times that of the others.
    """
    pairs = list(itertools.combinations(questions[:MOST_QUESTIONS], 2))
    return 1 - sum(rewards.question_similarity(*pair) for pair in pairs) / len(pairs) if pairs else None


def _solvable(written: Sequence[Trajectory], oracle: Oracle) -> float:
    """Return the fraction whose question has an answer, and the right one as its reference."""
    truths = [rewards.spellings(oracle(t.output)) if t.output is not None else () for t in written]
    return fraction(rewards.exact_match(t.output_answer, truth) for t, truth in zip(written, truths, strict=True))


def reward_against_truth(
    attempts: Sequence[Trajectory], given: Sequence[Reward], oracle: Oracle
) -> dict[str, float | None]:
    """Return true_reward, the fraction of attempts that are truly right, and true_gap: mean reward less true_reward.

    Over the attempts at questions that the oracle can answer, without the format reward; None where it can answer none.
    """
    truths = [rewards.spellings(oracle(t.task.question)) for t in attempts]
    known = [(t, r, truth) for t, r, truth in zip(attempts, given, truths, strict=True) if truth]
    if not known:
        return {"true_reward": None, "true_gap": None}
    right = fraction(rewards.exact_match(t.output, truth) for t, _, truth in known)
    rewarded = sum(r.total - r.parts.get("format", 0.0) for _, r, _ in known) / len(known)
    return {"true_reward": right, "true_gap": rewarded - right}


def fraction(hits: Iterable[bool]) -> float:
    """Return the fraction of hits among at least one."""
    listed = list(hits)
    return sum(listed) / len(listed)


def round_health(steps: Sequence[Line], pool_size: int, pool_size_before: int) -> dict[str, object]:
    """Return means over the trajectories of one round, from its lines of metrics.jsonl, and the question pool's growth.

    new_question_rate: new questions in the pool over the questions that were asked for; near-duplicates and those that
    fail the acceptance filter are not new.
    """
    asked = sum(step["trajectories"] for step in steps if step["phase"] == "generator")
    lines = [by_role_of(step) for step in steps]
    by_role = {
        role: {key: _mean([line[role] for line in lines if role in line], key) for key in ROLE_METRICS}
        for role in dict.fromkeys(role for line in lines for role in line)
    }
    return {
        "by_role": by_role,
        **{key: _mean(steps, key) for key in ("question_diversity", "true_reward", "true_gap")},
        "pool": pool_size,
        "new_questions": pool_size - pool_size_before,
        "new_question_rate": (pool_size - pool_size_before) / asked if asked else None,
    }


def _mean(steps: Sequence[Line], key: str) -> float | None:
    """Return the mean of a metric over the trajectories of the steps that have it; None where none has."""
    known = [(step[key], step["trajectories"]) for step in steps if step.get(key) is not None]
    return sum(value * n for value, n in known) / sum(n for _, n in known) if known else None
