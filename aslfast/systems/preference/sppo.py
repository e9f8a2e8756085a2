"""SPPO, self-play preference optimisation (arXiv 2405.00675; uclaml/SPPO@5e61c4e): log-ratios regress on win rates.

Of K answers those of the highest and of the lowest win rate P are learnt from, in several epochs, each with

    (log pi(y) - log mu(y) - (P - 1/2) / beta)^2,    mu the policy that answered

which is `loss.kind = "squared"` of the reward (P - 1/2) / beta. We differ: the code counts an answer against itself
too, as 1/2, so that its P - 1/2 is (K - 1) / K of ours; a question's answers that all draw are left out (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aslfast.phase import Control, Group
from aslfast.systems.preference.compared import Compared, ComparedOptions


def target(rate: float, beta: float) -> float:
    """Return what the log-ratio of an answer of a win rate regresses on, in nats: (P - 1/2) / beta."""
    return (rate - 0.5) / beta


def best_and_worst(group: Group) -> Group | None:
    """Return the answers of the highest and of the lowest reward, the first of equal ones; None where all draw."""
    played = list(zip(group.trajectories, group.rewards, strict=True))
    totals = [reward.total for reward in group.rewards]
    if not totals or max(totals) == min(totals):
        return None
    return Group.of([played[totals.index(max(totals))], played[totals.index(min(totals))]])


@dataclass(frozen=True)
class SPPOOptions(ComparedOptions):
    """beta: of the loss. epochs: optimizer steps on the pairs of a step."""

    beta: float = 0.01
    epochs: int = 6


class SPPO(Compared):
    """The best and the worst of the answers to a question are learnt from, so many times."""

    options_kind = SPPOOptions

    def reward(self, rate: float) -> float:
        return target(rate, self.options_as(SPPOOptions).beta)

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        pairs = [pair for pair in map(best_and_worst, groups) if pair]
        for _ in range(self.options_as(SPPOOptions).epochs - 1):
            control.learn("policy", pairs)
        return pairs
