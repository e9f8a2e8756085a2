"""One generator step of long-tailed trajectories, played as a graph or stage by stage.

Everything is real (sampler, adapters, tool, gate, `question_group`) but three things, which are forced so that
every variant does the same work: how many turns a trajectory has, how many tokens a turn has (no stop text, no
end-of-turn token), and what is taken for its output. A turn that is not the last is followed by a real search.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from aslfast.core import Role, StopReason, Task, Trajectory, Turn
from aslfast.prompts import role_tasks
from aslfast.prompts.parsing import VERDICTS
from aslfast.prompts.role_tasks import Call
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.rollout.search_tool import SEARCH
from aslfast.rounds.context import Loop
from aslfast.rounds.generator_phase import question_group
from aslfast.sampler.protocol import SampleRequest


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens a turn and turns a trajectory, both log-normal, at least 1 and capped; `most_in_all` bounds a trajectory.

    median and sigma: exp(mu) and sigma of the log-normal.
    """

    median_tokens: float = 5.0
    sigma_tokens: float = 1.6
    most_tokens: int = 200
    median_turns: float = 3.0
    sigma_turns: float = 0.8
    most_turns: int = 8
    most_in_all: int = 400

    def of(self, name: str) -> list[int]:
        """Tokens of each turn of the trajectory of that name."""
        rng = random.Random(stable_seed("lengths", name))

        def draw(median: float, sigma: float, most: int) -> int:
            return min(most, max(1, round(median * rng.lognormvariate(0.0, sigma))))

        turns = draw(self.median_turns, self.sigma_turns, self.most_turns)
        tokens = [draw(self.median_tokens, self.sigma_tokens, self.most_tokens) for _ in range(turns)]
        return [n for i, n in enumerate(tokens) if sum(tokens[: i + 1]) <= self.most_in_all]


class Lockstep:
    """Holds everyone of `n` at each step until all who have not left have come: a batch framework's barrier."""

    def __init__(self, n: int) -> None:
        self._left = n
        self._held: list[asyncio.Future[None]] = []

    async def arrive(self) -> None:
        self._held.append(asyncio.get_running_loop().create_future())
        held = self._held[-1]
        self._open()
        await held

    def leave(self) -> None:
        self._left -= 1
        self._open()

    def _open(self) -> None:
        if len(self._held) == self._left:
            held, self._held = self._held, []
            for one in held:
                one.set_result(None)


@dataclass(frozen=True)
class LongTailed(Rollout):
    """A rollout of forced lengths and outputs. `adapters` false: every role is asked of the base, whose weights are
    the role's own."""

    lengths: Lengths = field(default_factory=Lengths)
    adapters: bool = True
    seconds: list[float] = field(default_factory=list)  # of each trajectory, from its start
    lockstep: list[Lockstep] = field(default_factory=list)  # empty: nobody waits

    async def run(self, task: Task, sample: int, seed: int, adapter: str | None, version: int = 0) -> Trajectory:
        started, name = time.perf_counter(), f"{task.id}#{sample}"
        ids, mask = self.chat.prompt_ids(task.prompt, self.system), []
        mask, logprobs, tokens = [0] * len(ids), [0.0] * len(ids), self.lengths.of(name)
        for turn, n_tokens in enumerate(tokens):
            request = SampleRequest(
                tuple(ids), f"{name}@{seed}", adapter if self.adapters else None, n_tokens, self.temperature, (),
                stable_seed(name, turn),
            )  # fmt: skip
            sampled = await self.sampler.generate(request)
            assert len(sampled.token_ids) == n_tokens, f"{len(sampled.token_ids)} tokens, {n_tokens} were forced"
            observed = []
            await self._step()
            if turn + 1 < len(tokens):
                said = await self.tool.call(Call(SEARCH, (f"{task.question or task.prompt} {turn}",)))
                observed = self.chat.observation_ids(said or "", turn_closed=False)
                await self._step()
            ids += [*sampled.token_ids, *observed]
            mask += [1] * n_tokens + [0] * len(observed)
            logprobs += [*sampled.logprobs, *[0.0] * len(observed)]
        self.sampler.release(f"{name}@{seed}")
        for lockstep in self.lockstep:
            lockstep.leave()
        self.seconds.append(time.perf_counter() - started)
        output, answer = forced_output(task.role, name)
        turns = (Turn("sampled", 0, len(ids), ""),)  # their bounds are in the mask; rewards look at texts alone
        return Trajectory(
            task, tuple(ids), tuple(mask), tuple(logprobs), turns, StopReason.FINISHED, output, answer, version
        )

    async def _step(self) -> None:
        for lockstep in self.lockstep:
            await lockstep.arrive()


def forced_output(role: Role, name: str) -> tuple[str, str | None]:
    rng = random.Random(stable_seed("output", name))
    if role == "generator":
        return f"Which of the names is number {rng.randrange(10**6)}?", f"name {rng.randrange(3)}"
    return (rng.choice(VERDICTS[:2]) if role == "grm" else f"name {rng.randrange(3)}"), None


# --- the same step, played in three ways ------------------------------------------------------------------------

BeforeStage = Callable[[Role], Coroutine[Any, Any, None]]


async def as_graph(loop: Loop, tasks: Sequence[Task]) -> None:
    """As training does: no barrier."""
    await asyncio.gather(*(question_group(loop, task) for task in tasks))


async def turn_by_turn(loop: Loop, tasks: Sequence[Task]) -> None:
    """As batch frameworks do: all questions, then all attempts, then all verdicts, each turn and search of a stage for
    all of its trajectories before the next."""

    async def stage(jobs: Sequence[tuple[Task, int]]) -> list[Trajectory]:
        lockstep = Lockstep(len(jobs))
        loop.rollout.lockstep.append(lockstep)  # type: ignore[attr-defined]
        try:
            return await _all_at_once(loop, jobs)
        finally:
            loop.rollout.lockstep.remove(lockstep)  # type: ignore[attr-defined]

    await _stages(loop, tasks, stage)


async def role_by_role(loop: Loop, tasks: Sequence[Task], before: BeforeStage) -> None:
    """One stage for each role's weights, without a barrier inside it. `before` brings the weights of a role."""

    async def stage(jobs: Sequence[tuple[Task, int]]) -> list[Trajectory]:
        await before(jobs[0][0].role)
        return await asyncio.gather(*(loop.sample(task, number) for task, number in jobs))

    await _stages(loop, tasks, stage)


Stage = Callable[[Sequence[tuple[Task, int]]], Coroutine[Any, Any, list[Trajectory]]]


async def _stages(loop: Loop, tasks: Sequence[Task], stage: Stage) -> None:
    """The trajectories of `question_group`, by the same names and so of the same lengths, in three stages."""
    config, prompts = loop.config.generator, loop.config.model.prompts
    jobs = [(task, i) for task in tasks for i in range(config.group_size)]
    asks, checks = [], []
    for (task, number), written in zip(jobs, await stage(jobs), strict=True):
        question, answer, name = written.output or "", written.output_answer or "", f"{task.id}-{number}"
        asks.append(role_tasks.policy_task(f"{name}-p", question, prompts, (answer,), task.hops))
        checks.append(role_tasks.grm_task(f"{name}-c", question, answer, prompts))
    attempts = [(ask, i) for ask in asks for i in range(config.rollouts_per_question)]
    judged = [(check, i) for check in checks for i in range(config.self_checks)]
    for (ask, number), tried in zip(attempts, await stage(attempts), strict=True):
        judged.append((role_tasks.grm_task(f"{ask.id}{number}-v", ask.question, tried.output or "", prompts), 0))
    await stage(judged)


async def _all_at_once(loop: Loop, jobs: Sequence[tuple[Task, int]]) -> list[Trajectory]:
    """Past the gate, where a lockstep would wait for those outside for ever; the tokens are counted all the same."""
    seed = stable_seed(loop.config.seed, loop.round, loop.step)
    played = await asyncio.gather(*(loop.rollout.run(task, number, seed, task.role) for task, number in jobs))
    loop.sampled_tokens += sum(t.n_sampled for t in played)
    return played
