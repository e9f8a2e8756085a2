"""CoMAS: agents with weights of their own answer, criticise and score in turn; no ground truth.

Source: arXiv 2510.08529v2; code not found. The optimisation, REINFORCE++, is by settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aslfast.errors import UserError
from aslfast.phase import OwnPhase, Play, Played, Question, RewardOf, RunConfig, Task, TaskContext, Trajectory
from aslfast.systems.selfplay.judged import score_of

CRITIC, SCORER = "_critic", "_scorer"  # what ends the names of an agent's two other roles
SHOWN = 2  # rounds of the discussion that a solver reads


def triple_rewards(score: float | None) -> tuple[RewardOf, RewardOf, RewardOf]:
    """Return the rewards of a solution, its critique and its score: (s - 1) / 2, 1 - (s - 1) / 2 and 0.

    score: (s - 1) / 2 for a score s of 1 to 3; None for one that cannot be read, which earns -1. We differ there: the
    source leaves open what the other two earn, and here they are not learnt from.
    """
    return (None, None, -1.0) if score is None else (score, 1 - score, 0.0)


@dataclass(frozen=True)
class CoMASOptions:
    """Prompts with the gaps {question} and {history}, {answer} in the latter two, {critique} in the last."""

    solve: str
    criticise: str
    score: str
    rounds: int = 0  # of a discussion; 0: twice the number of agents


class CoMAS(OwnPhase):
    """A play is a discussion of a question. Each act is drawn one of the agents: the roles that have a NAME_critic."""

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.agents = [name for name in config.roles if f"{name}{CRITIC}" in config.roles]
        self.roles = [name + part for name in self.agents for part in ("", CRITIC, SCORER)]
        if not self.agents:
            raise UserError(f"CoMAS: no role is an agent; add tables roles.NAME{CRITIC} and roles.NAME{SCORER} to one")
        self.options_as(CoMASOptions)

    def tasks(self, context: TaskContext) -> Sequence[Question]:
        return context.data.real_questions

    async def play(self, play: Play, task: Task) -> Played:
        rng, acts, history = play.rng("agents"), list[Trajectory](), list[str]()
        for _ in range(self.options_as(CoMASOptions).rounds or 2 * len(self.agents)):
            agents = [rng.choice(self.agents) for _ in range(3)]
            solution, critique, score = await self._round(play, task.question, agents, " ".join(history[-SHOWN:]))
            acts += [solution, critique, score]
            history.append(f"Answer: {solution.output}. Objection: {critique.output}.")  # the score stays out of it
        return tuple(acts)

    async def _round(self, play: Play, question: str, agents: Sequence[str], history: str) -> Sequence[Trajectory]:
        options, seen = self.options_as(CoMASOptions), history or "(nothing yet)"
        solver, critic, scorer = agents[0], agents[1] + CRITIC, agents[2] + SCORER
        solution = await play.act(solver, options.solve, question=question, history=seen)
        answer = solution.output or "(no answer)"
        critique = await play.act(critic, options.criticise, question=question, history=seen, answer=answer)
        objection = critique.output or "(no objection)"
        score = await play.act(scorer, options.score, question=question, answer=answer, critique=objection)
        return solution, critique, score

    def rewards(self, task: Task, plays: Sequence[Played]) -> list[list[RewardOf]]:
        return [
            [each for score in acts[2::3] for each in triple_rewards(score_of(score.output, 1, 3))] for acts in plays
        ]
