"""SPO, self-play preference optimisation (arXiv 2401.04056): one policy plays against its own answers.

    r_i = mean over j of P(i is preferred to j),    j the other answers to the question

and any reinforcement learning of that. It is both sides of a zero-sum game whose equilibrium is the minimax winner, so
no reward model has to explain all preferences. We differ: a judge compares in both orders and counts their mean, a
draw is 1/2 (the paper: a preference function, -1 to 1, which is 2 r - 1).
"""

from __future__ import annotations

from aslfast.systems.preference.compared import Compared


class SPO(Compared):
    """The share of the other answers that an answer wins against is its reward."""
