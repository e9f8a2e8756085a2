"""The generator's rewards by name, each a function of the evidence on a question that it wrote.

p is the fraction of the policy's K attempts that the judge passes. Unless a docstring says otherwise, a question that
is invalid or fails the acceptance filter (`accepted`) earns 0; a recipe without the filter sets
`generator.min_acceptance = 0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aslfast.core import Trajectory
from aslfast.prompts.parsing import valid_question
from aslfast.rewards.match import contains_match, substring_match
from aslfast.rewards.repetition import repetition_shares
from aslfast.rewards.verdicts import accepted, accuracy, favourable, verdict_entropy


@dataclass(frozen=True, slots=True)
class QuestionEvidence:
    """All that a generator's reward depends on. Texts are untrusted."""

    question: str
    answer: str
    valid: bool  # well formed, with an answer
    accepted: bool  # the judge passes the generator's own answer often enough: the acceptance filter
    verdicts: tuple[str | None, ...] = ()  # on the policy's attempts
    tool_texts: tuple[str, ...] = ()  # tool responses that the generator got
    old_question: str = ""  # the one to vary; empty for a question about a topic
    old_answer: str = ""
    batch: tuple[str, ...] = ()  # questions to compare with for repetition, this one included

    @property
    def passed(self) -> bool:
        """Whether the question is valid and accepted."""
        return self.valid and self.accepted


def question_evidence(
    written: Trajectory,
    verdicts: Sequence[str | None] = (),
    self_verdicts: Sequence[str | None] = (),
    min_acceptance: float = 0.0,
) -> QuestionEvidence:
    """Return the evidence on the question of a generator's trajectory; its task holds the question to vary, if any."""
    asked, task = written.output or "", written.task
    return QuestionEvidence(
        question=asked,
        answer=written.output_answer or "",
        valid=valid_question(asked) and bool(written.output_answer),
        accepted=accepted(self_verdicts, min_acceptance),
        verdicts=tuple(verdicts),
        tool_texts=tuple(turn.text for turn in written.turns if turn.kind == "tool"),
        old_question=task.question,
        old_answer=task.references[0] if task.references else "",
        batch=(asked,),
    )


def entropy(evidence: QuestionEvidence) -> dict[str, float]:
    """Return H(p) in nats (ASL): at most ln 2, at p = 1/2."""
    return {"entropy": verdict_entropy(evidence.verdicts) if evidence.passed else 0.0}


def entropy_bits(evidence: QuestionEvidence) -> dict[str, float]:
    """Return H(p) / ln 2: at most 1, as much as a policy's right answer earns."""
    return {"entropy": entropy(evidence)["entropy"] / math.log(2)}


def entropy_tool(evidence: QuestionEvidence) -> dict[str, float]:
    """Return H(p) + (1 - ln 2) if a tool response contains the answer (ASL): at most 1.

    We differ: whole words after normalising, in any tool response, not the letters as they are in the first; and the
    acceptance filter holds for the second part too.
    """
    found = evidence.passed and _found(evidence)
    return {**entropy(evidence), "tool": (1 - math.log(2)) * found}


def tool_gt(evidence: QuestionEvidence) -> dict[str, float]:
    """Return the mean of three conditions (ASL): a tool response contains the answer; the new answer does not contain
    the old one; nor does the new question. For variants: without an old question the latter two hold.

    The acceptance filter holds here, as for every reward; not so in the original.
    """
    old = [evidence.old_answer] if evidence.old_answer else []
    conditions = {
        "found": _found(evidence),
        "new_answer": not substring_match(evidence.answer, old),
        "no_leak": not substring_match(evidence.question, old),
    }
    return {name: (evidence.passed and holds) / 3 for name, holds in conditions.items()}


def _found(evidence: QuestionEvidence) -> bool:
    """Return whether a tool response contains the answer."""
    return any(contains_match(text, [evidence.answer]) for text in evidence.tool_texts)


def absolute_zero(evidence: QuestionEvidence) -> dict[str, float]:
    """Return 1 - p if 0 < p < 1, else 0 (Absolute Zero, arXiv 2505.03335; ASL's variant).

    Its -0.5 and -1 for ill-formed questions are left out, as in ASL.
    """
    p = accuracy(evidence.verdicts)
    return {"difficulty": 1 - p if evidence.passed and 0 < p < 1 else 0.0}


def ssp(evidence: QuestionEvidence) -> dict[str, float]:
    """Return 1 - p (SSP, arXiv 2510.18821), 0 where invalid: its published script has a format penalty of 0.

    Its validity check answers the question from the proposer's documents and 4 others; here the acceptance filter does.
    """
    return {"difficulty": 1 - accuracy(evidence.verdicts) if evidence.passed else 0.0}


def dr_zero(evidence: QuestionEvidence) -> dict[str, float]:
    """Return (n - k) / (n - 1) if 0 < k < n, else 0: k of n attempts pass (Dr. Zero, arXiv 2601.07055); 1 for k = 1."""
    right = [favourable(verdict) for verdict in evidence.verdicts]
    return {"difficulty": share_failed(right) if evidence.passed else 0.0}


def share_failed(right: Sequence[bool]) -> float:
    """Return (n - k) / (n - 1) if k of n tries are right, 0 < k < n, else 0 (Dr. Zero): from 1 down to 1 / (n - 1)."""
    n, k = len(right), sum(right)
    return (n - k) / (n - 1) if 0 < k < n else 0.0


def r_zero(evidence: QuestionEvidence) -> dict[str, float]:
    """Return min(p, 1 - p) - fraction of the batch in the question's BLEU cluster; the first part is -1 if invalid.

    R-Zero's code (arXiv 2508.05004). The batch is the group of one task here, all questions there.
    """
    p = accuracy(evidence.verdicts)
    uncertainty = min(p, 1 - p) if evidence.passed else 0.0
    return {"uncertainty": uncertainty if evidence.valid else -1.0, "repetition": -_repetition(evidence)}


def r_zero_paper(evidence: QuestionEvidence) -> dict[str, float]:
    """Return max(0, 1 - 2 |p - 1/2| - repetition) (R-Zero's paper, its challenger's reward), 0 where invalid."""
    if not evidence.passed:
        return {"uncertainty": 0.0}
    return {"uncertainty": max(0.0, 1 - 2 * abs(accuracy(evidence.verdicts) - 0.5) - _repetition(evidence))}


def _repetition(evidence: QuestionEvidence) -> float:
    """Return the fraction of the batch in the question's cluster; 0 for an invalid question."""
    return repetition_shares(evidence.batch)[evidence.batch.index(evidence.question)] if evidence.valid else 0.0


GeneratorReward = Callable[[QuestionEvidence], Mapping[str, float]]
GENERATOR_REWARDS: Mapping[str, GeneratorReward] = {
    "entropy": entropy,
    "entropy_bits": entropy_bits,
    "entropy+tool": entropy_tool,
    "tool_gt": tool_gt,
    "absolute_zero": absolute_zero,
    "ssp": ssp,
    "dr_zero": dr_zero,
    "r_zero": r_zero,
    "r_zero_paper": r_zero_paper,
}
