"""What a run tells whoever watches it: progress, records and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.rounds.records import RoundRecord, StepRecord


class Observer:
    """Hears what a run does; this one ignores all of it. Subclass it and override what you want to see."""

    def setup(self, what: str) -> None:
        """Hear that `what` is being opened."""

    def resumed(self, at: Position) -> None:
        """Hear where a resumed run goes on."""

    def step(self, record: StepRecord) -> None:
        """Hear of an optimizer step that is committed."""

    def evaluating(self, round_number: int) -> None:
        """Hear that the evaluation of a round starts."""

    def trajectory(self, sampled_tokens: int) -> None:
        """Hear of one more trajectory of an evaluation."""

    def evaluated(self, record: RoundRecord) -> None:
        """Hear of a round that is evaluated and committed."""

    def warning(self, text: str) -> None:
        """Hear what a person should know."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a run: its round, the phases of that round that are done, and the steps done of the next one."""

    round: int
    phases_done: Sequence[str]
    phase_step: int
