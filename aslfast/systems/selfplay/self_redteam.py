"""Self-RedTeam: an attacker writes what a defender, the same model, should refuse or should not; a guard labels both.

Source: arXiv 2506.07468 and mickelliu/selfplay-redteaming@0c56e50 (`general_sum`), whose attacks are on safety. We
differ: the game is over passages, see `SelfRedTeam`. There a trap is a harmful prompt, an unsupported answer a harmful
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, Task, TaskContext, Trajectory
from aslfast.rewards import normalize

KINDS = {"answerable": "that one passage answers", "trap": "built on something that no passage says or that is untrue"}
REFUSAL = "unanswerable"  # what a defender answers to a trap


@dataclass(frozen=True)
class Labels:
    """What is said of a game. seeded: the attacker was to set a trap; trap: its question is one."""

    seeded: bool
    trap: bool
    refused: bool
    unsupported: bool  # the answer; a refusal is not


def signed(holds: bool, size: float = 1.0) -> float:
    """Return +size where it holds, else -size."""
    return size if holds else -size


def attacker_rewards(labels: Labels) -> dict[str, float]:
    """Return +-1/2 for being faithful to the seed, +-1 for an unsupported answer, +-1/2 for a wrong refusal or none.

    Wrong: of a question that is no trap, and to answer one that is. Source: the code's `general_sum`.
    """
    return {
        "faithful": signed(labels.trap == labels.seeded, 0.5),
        "unsupported": signed(labels.unsupported),
        "refusal": signed(labels.refused != labels.trap, 0.5),
    }


def defender_rewards(labels: Labels) -> dict[str, float]:
    """Return +-1 for a supported answer, or none, and +-1 for refusing a trap and nothing else."""
    return {"supported": signed(not labels.unsupported), "refusal": signed(labels.refused == labels.trap)}


def thought_reward(act: Trajectory) -> float:
    """Return +1 where the closing turn thinks, once and before its output, else -1."""
    thought, closed, rest = act.turns[-1].said.partition("</think>")
    words = thought.replace("<think>", "", 1).strip()
    return signed(bool(closed and words) and not any(mark in words + rest for mark in ("<think>", "</think>")))


@dataclass(frozen=True)
class SelfRedTeamOptions:
    """question_prompt, answer_prompt: what the guard is asked about a question and an answer, with {question} and
    {answer}. traps: whether every second question shall be one."""

    question_prompt: str
    answer_prompt: str
    traps: bool = True


class SelfRedTeam(OwnPhase):
    """The generator writes a question about a topic that passages answer, or a trap; the policy answers, or refuses.

    The role `grm` labels question and answer, where the paper has WildGuard. A game of a turn or label that cannot be
    read is not learnt from.
    """

    roles = ("generator", "policy")
    options_kind = SelfRedTeamOptions

    def tasks(self, context: TaskContext) -> list[Question]:
        kinds = list(KINDS) if self.options_as(SelfRedTeamOptions).traps else list(KINDS)[:1]
        return [Question(str(i), topic, (kinds[i % len(kinds)],)) for i, topic in enumerate(context.data.topics)]

    async def play(self, play: Play, task: Task) -> Played:
        (kind,) = task.references
        asked = await play.act("generator", topic=task.question, kind=KINDS[kind])
        if asked.output is None:
            return (asked,)
        answered = await play.act("policy", about=Question(asked.task.id, asked.output))
        labels = await self._labels(play, kind, asked, answered)
        if labels:
            play.settle(asked, {**attacker_rewards(labels), "thought": thought_reward(asked)})
            play.settle(answered, {**defender_rewards(labels), "thought": thought_reward(answered)})
        return asked, answered

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        """Return nothing: rewards are settled in the play, where there are labels."""
        return [[None for _ in acts] for acts in plays]

    async def _labels(self, play: Play, kind: str, asked: Trajectory, answered: Trajectory) -> Labels | None:
        """Return what the guard says of a game; None where an answer or a label is missing."""
        if answered.output is None:
            return None
        options, refused = self.options_as(SelfRedTeamOptions), normalize(answered.output) == REFUSAL
        fair = await self._label(play, options.question_prompt, asked.output, asked.output_answer)
        supported = refused or await self._label(play, options.answer_prompt, asked.output, answered.output)
        if fair is None or supported is None:
            return None
        return Labels(kind == "trap", not fair, refused, not supported)

    async def _label(self, play: Play, prompt: str, question: str | None, answer: str | None) -> bool | None:
        """Return whether the guard says correct; None where it says neither that nor wrong."""
        judged = await play.act("grm", prompt, question=question or "", answer=answer or "")
        return {"correct": True, "wrong": False}.get(judged.output or "")
