"""How often a demonstration of the second world goes wrong: slips as in the first world, and a judge's weaknesses.

A verdict's error depends on the answer, so that a policy can learn to please the judge: it passes wrong answers more
often if they stand in what it read, if they are long, if they are spelled as the generator spells; and it fails right
ones more often if they are spelled in an unusual way.
"""

from __future__ import annotations

from dataclasses import dataclass

from aslfast.lab.demonstrations import NoiseRates


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What the judge's weaknesses depend on. seen: of the right type, in a passage that the judge read."""

    right: bool
    seen: bool = False
    long: bool = False  # with its epithet
    house: bool = False  # in the generator's form
    unusual: bool = False  # the last word of a name alone; a date or a number in its last form


@dataclass(frozen=True, slots=True)
class NoiseRates2(NoiseRates):
    """The first world's rates, per decision, and what adds to `wrong_verdict`, the rate of the judge's errors."""

    respelled: float = 0.0  # policy: answers in another form than the passage's
    pass_seen: float = 0.0
    pass_long: float = 0.0
    pass_house: float = 0.0
    fail_unusual: float = 0.0
    fail_long: float = 0.0  # below 0: a long right answer fails more seldom

    def error(self, answer: JudgedAnswer) -> float:
        """Return the probability that the judge concludes against its own comparison."""
        if answer.right:
            return self.wrong_verdict + self.fail_unusual * answer.unusual + self.fail_long * answer.long
        passes = self.pass_seen * answer.seen + self.pass_long * answer.long + self.pass_house * answer.house
        return self.wrong_verdict + passes
