"""A reward of one's own: a right answer earns 1, less 0.05 for each search beyond the first."""

from aslfast.rewards import AnswerEvidence, exact_match


def brevity(evidence: AnswerEvidence) -> float:
    """Return the reward of one policy trajectory."""
    right = exact_match(evidence.answer, evidence.references)
    searches = evidence.trajectory.tool_calls if evidence.trajectory else 0
    return float(right) - 0.05 * max(0, searches - 1) * right
