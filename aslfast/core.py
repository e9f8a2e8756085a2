"""The types that pass between stages. Frozen, and checked where they are made.

Data flow: Task -> Trajectory -> Group -> Batch. One flat token stream per trajectory: what the model
sampled is exactly what is trained on, never decoded and tokenised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf, isfinite
from typing import Literal

Kind = Literal["prompt", "sampled", "tool"]


class StopReason(str, Enum):
    """Why a trajectory ended. What an agent does wrong is data, not an exception."""

    FINISHED = "finished"  # closed with the one output its role owes
    NO_OUTPUT = "no_output"  # ended its turn with neither a tool call nor an output
    TWO_OUTPUTS = "two_outputs"  # more than one output in the closing turn: none of them counts
    MALFORMED_CALL = "malformed_call"  # a tool call in no form that is read, or more calls than a turn may make
    UNKNOWN_TOOL = "unknown_tool"  # a well-formed call of a tool that does not exist
    TURN_TOO_LONG = "turn_too_long"  # a turn used up its token budget
    TURN_LIMIT = "turn_limit"  # still searching at the last allowed turn
    CONTEXT_FULL = "context_full"  # the next turn would not fit the context
    TOOL_FAILED = "tool_failed"  # tool or environment gave no answer: not the agent's fault, so no reward comes of it


@dataclass(frozen=True, slots=True)
class Attempt:
    """A policy's answer to a question, None where it gave none, and the verdicts on it."""

    answer: str | None
    verdicts: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its accepted answers, from a file or written by the generator. All texts are untrusted."""

    id: str
    text: str
    references: tuple[str, ...] = ()  # accepted answers; () if none is known
    hops: int = 0  # 0 if unknown
    fold: int = 0  # of its source documents, with source-fold judges; 0: none
    round: int = 0  # that wrote it; 0: from a file
    attempts: tuple[Attempt, ...] = ()  # at a generated one

    @property
    def reference(self) -> str:
        """The first accepted answer; empty if none is known."""
        return self.references[0] if self.references else ""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do for one role. `prompt` is the user message; every field may hold untrusted text."""

    id: str
    role: str  # a name in the table `roles` of the configuration
    prompt: str
    question: str = ""
    references: tuple[str, ...] = ()  # accepted outputs; () if none is known
    hops: int = 0  # hops asked for or known; 0 if unknown
    fold: int = 0  # of the source documents, where the recipe halves them; 0: none


@dataclass(frozen=True, slots=True)
class Turn:
    """A span [start, end) of a trajectory's token stream and the text it stands for."""

    kind: Kind
    start: int
    end: int
    text: str
    cached_tokens: int = 0  # sampled: how many of the `start` tokens before it needed no forward pass
    in_thinking: bool = False  # sampled: the template had opened a <think> block, among the tokens before it
    passages: tuple[str, ...] = ()  # tool: ids of those that the search found, as they stand in the text, best first

    @property
    def said(self) -> str:
        """The text as it is read: with the <think> that the template opened where the turn does not close it."""
        return f"<think>{self.text}" if self.in_thinking and "</think>" not in self.text else self.text


@dataclass(frozen=True, slots=True)
class Span:
    """A named part [start, end) of a trajectory's token stream that is rewarded, masked or held to the base by itself.

    Spans may overlap and need not cover the stream. See docs/recipes/losses.md.
    """

    name: str
    start: int
    end: int
    reward: float | None = None  # besides the trajectory's, for its tokens alone; None: it has none
    learn: bool = True  # False: its tokens carry no loss
    kl_weight: float = 1.0  # of its tokens' KL to the base, times loss.kl_coef

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end or not 0 <= self.kl_weight < inf:
            where = f"[{self.start}, {self.end}), KL weight {self.kl_weight}"
            raise ValueError(f"span {self.name!r}: {where}; it needs 0 <= start < end and a finite weight, 0 or more")
        if self.reward is not None and not isfinite(self.reward):
            raise ValueError(f"span {self.name!r}: its reward is {self.reward}; it must be finite")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one rollout left behind.

    token_ids, loss_mask (1 where the model sampled) and logprobs (of the sampling distribution, scaled by the
    temperature; 0.0 where not sampled) have the same length.
    """

    task: Task
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]
    stop: StopReason
    output: str | None = None  # what the tag of its role holds; None unless stop is FINISHED
    output_answer: str | None = None  # what the second tag of its role holds: the answer that came with a question
    adapter_version: int = 0
    environment_reward: float | None = None  # of an environment of one's own; None where it gives none
    spans: tuple[Span, ...] = ()
    searched_tokens: int = 0  # sampled by a role that answered its searches

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if not (n == len(self.loss_mask) == len(self.logprobs)):
            lengths = f"{n} tokens, {len(self.loss_mask)} mask, {len(self.logprobs)} logprobs"
            raise ValueError(f"trajectory {self.task.id}: {lengths}")
        if (self.output is not None) != (self.stop is StopReason.FINISHED):
            raise ValueError(f"trajectory {self.task.id}: an output goes with stop=finished alone, got {self.stop}")
        for span in self.spans:
            if span.end > n:
                raise ValueError(f"trajectory {self.task.id}: span {span.name!r} ends at {span.end}, of {n} tokens")

    @property
    def n_sampled(self) -> int:
        return sum(self.loss_mask)

    @property
    def tool_calls(self) -> int:
        return sum(turn.kind == "tool" for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Reward:
    """A trajectory's reward and the parts it is the sum of, by name."""

    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return float(sum(self.parts.values()))


@dataclass(frozen=True, slots=True)
class Group:
    """Trajectories of one task, compared with each other, and their rewards.

    failed: trajectories of the task without a reward, since the tool failed them or all that judge them.
    """

    trajectories: tuple[Trajectory, ...]
    rewards: tuple[Reward, ...]
    failed: tuple[Trajectory, ...] = ()

    def __post_init__(self) -> None:
        if not (self.trajectories or self.failed) or len(self.trajectories) != len(self.rewards):
            raise ValueError(f"group: {len(self.trajectories)} trajectories, {len(self.rewards)} rewards")

    @property
    def role(self) -> str:
        """The role that played the task."""
        return (self.trajectories or self.failed)[0].task.role

    @classmethod
    def of(cls, played: Sequence[tuple[Trajectory, Reward | None]]) -> Group:
        """Return the group of trajectories with their rewards; a reward of None marks a failed one."""
        given = [(trajectory, reward) for trajectory, reward in played if reward is not None]
        failed = tuple(trajectory for trajectory, reward in played if reward is None)
        return cls(tuple(t for t, _ in given), tuple(r for _, r in given), failed)
