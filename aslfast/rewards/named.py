"""Rewards, labels, references and filters by the name in a recipe: one of ours, or a function at an import path; and
the reward of a trajectory, which is what its role is rewarded for and its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from aslfast import plugins
from aslfast.clock import CLOCK
from aslfast.core import Attempt, Reward, Trajectory
from aslfast.plugins import Contract
from aslfast.rewards.format import format_reward
from aslfast.rewards.generator import GENERATOR_REWARDS, GeneratorReward, QuestionEvidence
from aslfast.rewards.judge import GRM_REWARDS, offered
from aslfast.rewards.labels import LABELS, REFERENCES, Labels
from aslfast.rewards.policy import JUDGED, POLICY_REWARDS, AnswerEvidence

NUMBER = "a finite number"
ANSWER = Contract(
    "one aslfast.rewards.AnswerEvidence", NUMBER,
    (AnswerEvidence("Oslo", ("correct",), ("Oslo",), "Which town?"),),
    (AnswerEvidence(None, (), ("Oslo",), "Which town?"),),
)  # fmt: skip
QUESTION = Contract(
    "one aslfast.rewards.QuestionEvidence", "a finite number or a dict of name -> finite number",
    (QuestionEvidence("Which town is it?", "Oslo", True, True, ("correct", "wrong"), batch=("Which town is it?",)),),
)  # fmt: skip
FILTER = Contract("one aslfast.rewards.QuestionEvidence", "True to accept the question, else False", QUESTION.sample)
VERDICT = Contract(
    "the verdict (None where none was given) and the label", NUMBER, ("correct", "wrong"), (None, "wrong")
)
LABEL = Contract(
    "a list of aslfast.rewards.Attempt and the reference answer", 'a dict of answer -> "correct" or "wrong"',
    ([Attempt("Oslo", ("correct",)), Attempt("Rome", ("wrong",))], "Oslo"),
)  # fmt: skip
REFERENCE = Contract(
    "the policy's answers (None where none was given) and the generator's own", "a text", (["Oslo", None], "Oslo")
)


def policy_rule(name: str) -> Callable[[AnswerEvidence], float]:
    """Return the policy's reward of this name. Raise UserError."""
    return _named(name, POLICY_REWARDS, "policy.reward", ANSWER, plugins.finite_number)


def generator_rule(name: str) -> GeneratorReward:
    """Return the generator's reward of this name. Raise UserError."""
    return _named(name, GENERATOR_REWARDS, "generator.reward", QUESTION, plugins.finite_parts)


def question_filter(name: str) -> Callable[[QuestionEvidence], bool]:
    """Return the filter that a question must pass besides ours. Raise UserError."""
    return _named(name, {"": lambda _: True}, "generator.accept", FILTER, _truth)


def judge_rule(name: str, variant: str) -> Callable[[str | None, str], float]:
    """Return the judge's reward of this name; "variant" is that of the judge's variant. Raise UserError."""
    return _named(name, {"variant": GRM_REWARDS[variant]}, "grm.reward", VERDICT, plugins.finite_number)


def label_source(name: str) -> Callable[..., Labels]:
    """Return the source of labels of this name. Raise UserError."""
    return _named(name, LABELS, "grm.label", LABEL, _labels)


def reference_source(name: str) -> Callable[..., str]:
    """Return the source of a question's reference answer of this name. Raise UserError."""
    return _named(name, REFERENCES, "generator.reference", REFERENCE, plugins.text)


def _named(
    name: str, table: Mapping[str, Callable[..., Any]], key: str, contract: Contract, check: Callable[[Any], Any]
) -> Callable[..., Any]:
    return CLOCK.timed("reward")(table[name] if name in table else _loaded(name, key, contract, check))


_loaded = cache(plugins.load_function)


def _truth(given: object) -> bool:
    if not isinstance(given, bool):
        raise ValueError(repr(given)[:100])
    return given


def _labels(given: object) -> Labels:
    if not isinstance(given, dict) or not all(
        isinstance(answer, str) and label in ("correct", "wrong") for answer, label in given.items()
    ):
        raise ValueError(repr(given)[:100])
    return given


@CLOCK.timed("reward")
def policy_reward(
    trajectory: Trajectory, verdicts: Sequence[str | None], format_weight: float, reward: str = "majority"
) -> Reward:
    """Return the named reward of the trajectory's answer, as part `judge` or `rule`, and the format reward."""
    task = trajectory.task
    evidence = AnswerEvidence(trajectory.output, tuple(verdicts), task.references, task.question, trajectory)
    part = "judge" if reward in JUDGED else "rule"
    return Reward({part: policy_rule(reward)(evidence), "format": format_weight * format_reward(trajectory)})


@CLOCK.timed("reward")
def generator_reward(
    trajectory: Trajectory, evidence: QuestionEvidence, format_weight: float, reward: str = "entropy_bits"
) -> Reward:
    """Return the parts of the named reward, and the format reward of a valid question."""
    form = format_weight * format_reward(trajectory) if evidence.valid else 0.0
    return Reward({**generator_rule(reward)(evidence), "format": form})


@CLOCK.timed("reward")
def grm_reward(
    trajectory: Trajectory, label: str, format_weight: float, variant: str = "tool", reward: str = "variant"
) -> Reward:
    """Return the reward of a judge's verdict against the label, as part `match`, and the format reward."""
    match = judge_rule(reward, variant)(offered(trajectory.output, variant), label)
    return Reward({"match": match, "format": format_weight * format_reward(trajectory)})
