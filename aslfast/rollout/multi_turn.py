"""The multi-turn rollout: Task -> Trajectory. Tokens in, tokens out: what was sampled is never tokenised again."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from aslfast.clock import CLOCK
from aslfast.config import RunConfig
from aslfast.config.roles import RoleConfig, adapter_of, default_roles
from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import parse_output, without_thinking
from aslfast.prompts.tool_calls import SEARCH, Call, parse_calls
from aslfast.rollout.environments.own_environment import GuardedEpisode, OwnEnvironment
from aslfast.rollout.model_search import ModelSearch
from aslfast.rollout.open_trajectory import Limits, OpenTrajectory, Start
from aslfast.rollout.search_tool import Observation
from aslfast.rollout.toolbox import RoleTools, ToolCaller
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

T = TypeVar("T")

_runs = itertools.count()


SAID = (StopReason.FINISHED, StopReason.NO_OUTPUT, StopReason.TWO_OUTPUTS)  # a turn that calls no tool


@dataclass(frozen=True, slots=True)
class _End:
    """How a trajectory ends."""

    stop: StopReason
    output: str | None = None
    output_answer: str | None = None


def read_turn(
    output: Sequence[str], text: str, finish: str, tools: Sequence[str] = (SEARCH,), max_calls: int = 1
) -> tuple[Call, ...] | _End:
    """Return what a sampled turn does: calls of the tools to run, or how the trajectory ends.

    output: the tags of the role's closing turn.
    """
    if finish == "length":
        return _End(StopReason.TURN_TOO_LONG)
    calls = parse_calls(without_thinking(text), max_calls)
    if calls == ():
        return _End(*parse_output(output, text))
    if calls is None:
        return _End(StopReason.MALFORMED_CALL)
    if any(call.name not in tools for call in calls):
        return _End(StopReason.UNKNOWN_TOOL)
    if any(call.name == SEARCH and not call.queries for call in calls):
        return _End(StopReason.MALFORMED_CALL)
    return calls


def take_action(played: GuardedEpisode, end: _End, said: str) -> _End | str:
    """Return what an episode answers to a turn without a call, or how the trajectory ends: the episode decides."""
    action = without_thinking(said).strip() if end.output is None else end.output
    with CLOCK.part("tool"):
        observation = played.step(action)
    if played.failed:
        return _End(StopReason.TOOL_FAILED)
    return _End(StopReason.FINISHED, action) if observation is None else observation


@dataclass(frozen=True)
class Rollout:
    """Runs trajectories on one sampler and its tools.

    system: the system message. environment: one's own; it answers the turns of a role that plays in it, and rewards its
    trajectories. role_tools: of the roles that have tools of their own, by name.
    """

    sampler: Sampler
    tool: ToolCaller
    chat: Chat
    limits: Limits
    temperature: float
    system: str = ""
    environment: OwnEnvironment | None = None
    roles: Mapping[str, RoleConfig] = field(default_factory=default_roles)
    role_tools: Mapping[str, RoleTools] = field(default_factory=dict)

    def following(self, config: RunConfig) -> Rollout:
        """Return this rollout with the temperature, the limits and the roles' settings of a configuration."""
        own = config.sampler
        limits = replace(self.limits, max_turns=own.max_turns, max_new_tokens=own.max_new_tokens)
        return replace(self, limits=limits, temperature=own.temperature, roles=config.all_roles)

    async def run(
        self, task: Task, number: int, seed: int, adapter: str | None, version: int = 0, start: Start | None = None
    ) -> Trajectory:  # fmt: skip
        """Return the `number`-th trajectory of a task, sampled with an adapter of this version; None: the base alone.

        The same task, number and seed give the same trajectory, whatever else is running. start: what stands before its
        first turn, in place of the task's prompt.
        """
        episode = self._opened(f"{task.id}#{number}@{seed}", task.role, adapter)
        environment = self.environment if episode.role.environment else None
        played = environment and environment.start(task, stable_seed(task.id, seed))
        prompt = f"{task.prompt}\n{played.observation}" if played and played.observation else task.prompt
        if start:
            episode.begin(start)
        else:
            episode.append("prompt", episode.chat.prompt_ids(prompt, self._system(task.role)), prompt)
        try:
            end = await self._run_turns(episode, self.role_tools.get(task.role), played)
        finally:
            self.sampler.release(episode.session)
        trajectory = Trajectory(
            task=task,
            token_ids=tuple(episode.ids),
            loss_mask=tuple(episode.mask),
            logprobs=tuple(episode.logprobs),
            turns=tuple(episode.turns),
            stop=end.stop,
            output=end.output,
            output_answer=end.output_answer,
            adapter_version=version,
            environment_reward=played and played.reward,
            searched_tokens=episode.searched_tokens,
        )
        return environment.rewarded(trajectory) if environment else trajectory

    def opened_with(self, role: str, messages: Sequence[str]) -> Start:
        """Return the start of a trajectory from a list of messages, the user's and the model's in turn, ending with the
        user's. All of it is data, and none of it is learnt from."""
        episode = self._opened("", role, None)
        episode.append("prompt", episode.chat.prompt_ids(messages[0], self._system(role)), messages[0])
        for said, asked in zip(messages[1::2], messages[2::2], strict=True):
            episode.append("prompt", episode.chat.said_ids(said), said)
            episode.append("prompt", episode.chat.message_ids(asked, turn_closed=False), asked)
        return Start.of(episode)

    def gone_on(self, trajectory: Trajectory, message: str, turns: int | None = None, learn: bool = True) -> Start:
        """Return the start of a trajectory that goes on from another, or from its first `turns` turns, with a message.

        learn: whether the turns that were sampled before are learnt from in it too.
        """
        kept = trajectory.turns[:turns]
        end = kept[-1].end if kept else 0
        if not kept or kept[-1].kind != "sampled":
            raise ValueError(f"trajectory {trajectory.task.id}: it can go on after a sampled turn alone")
        episode = self._opened("", trajectory.task.role, None)
        mask = trajectory.loss_mask[:end] if learn else [0] * end
        episode.begin(Start(trajectory.token_ids[:end], tuple(mask), trajectory.logprobs[:end], kept))
        closed = episode.chat.ends_turn(episode.ids)
        episode.append("prompt", episode.chat.message_ids(message, closed), message)
        return Start.of(episode)

    def _opened(self, name: str, role: str, adapter: str | None) -> OpenTrajectory:
        """Return a trajectory without a token; the same name may run twice at once."""
        own, tools = self.roles[role], self.role_tools.get(role)
        chat, session = tools.chat if tools else self.chat, f"{name}~{next(_runs)}"
        temperature = own.temperature or self.temperature
        return OpenTrajectory(name, session, adapter, own, chat, self.limits.of_role(own), temperature)

    def _system(self, role: str) -> str:
        tools = self.role_tools.get(role)
        return tools.system if tools else self.system

    async def _run_turns(
        self, episode: OpenTrajectory, role_tools: RoleTools | None, played: GuardedEpisode | None
    ) -> _End:
        if played and played.failed:
            return _End(StopReason.TOOL_FAILED)
        limits, before = episode.limits, len(episode.turns)
        tools, searcher = (role_tools.names, role_tools.searcher) if role_tools else (self.tool.names, None)
        for turn in range(limits.max_turns):
            if not episode.has_room:
                return _End(StopReason.CONTEXT_FULL)
            sample, sampled = await self._turn(episode, stable_seed(episode.name, turn), turn == 0 and before == 1)
            action: Sequence[Call] | _End | str = read_turn(
                episode.role.output, sampled.said, sample.finish, tools, limits.max_calls
            )
            if played and isinstance(action, _End) and action.stop in SAID:
                action = take_action(played, action, self._without_eos(sampled, sample))
            if isinstance(action, _End):
                return action
            if turn + 1 < limits.max_turns:  # no turn would read the last observation
                observed = await _observed(action, partial(self._answer, searcher, episode, turn))
                if observed is None:
                    return _End(StopReason.TOOL_FAILED)
                texts = [(name, found.text) for name, found in observed]
                ids = episode.chat.results_ids(texts, episode.chat.ends_turn(sample.token_ids))
                passages = [id_ for _, found in observed for id_ in found.passages]
                episode.append("tool", ids, "\n".join(text for _, text in texts), passages)
        return _End(StopReason.TURN_LIMIT)

    async def _turn(self, episode: OpenTrajectory, seed: int, first: bool) -> tuple[Sample, Turn]:
        """Sample a turn and append it. first: it follows the prompt."""
        sample = await self._sample(episode, seed)
        text, in_thinking = episode.chat.text(sample.token_ids), episode.chat.opens_thinking(first_turn=first)
        return sample, episode.append_sampled(sample, text, in_thinking)

    async def _answer(
        self, searcher: ModelSearch | None, episode: OpenTrajectory, turn: int, call: Call
    ) -> Observation | None:
        """Return what a call comes back with; None where the tool gave no answer."""
        if searcher is None or call.name != SEARCH:
            return await self.tool.call(call)
        asked = searcher.role

        async def say(prompt: str, query: str) -> str:
            said, n_tokens = await self._said(asked, prompt, stable_seed(episode.name, turn, query))
            episode.searched_tokens += n_tokens
            return said

        return await searcher.answer(call, say)

    async def _said(self, role: str, prompt: str, seed: int) -> tuple[str, int]:
        """Return what a role says to a prompt in one turn, nothing where the context has no room, and how many tokens.

        It takes no permit of the concurrency limit: the trajectory that waits for it holds one.
        """
        episode = self._opened(f"search@{seed}", role, adapter_of(self.roles, role))
        episode.append("prompt", episode.chat.prompt_ids(prompt, self._system(role)), prompt)
        if not episode.has_room:
            return "", 0
        try:
            sample, turn = await self._turn(episode, seed, first=True)
        finally:
            self.sampler.release(episode.session)
        return self._without_eos(turn, sample), len(sample.token_ids)

    def _without_eos(self, turn: Turn, sample: Sample) -> str:
        """Return what a turn says, without the token that ends it."""
        return turn.said.removesuffix(self.chat.text(sample.token_ids[-1:])) if sample.finish == "eos" else turn.said

    async def _sample(self, episode: OpenTrajectory, seed: int) -> Sample:
        limits = episode.limits
        request = SampleRequest(
            tuple(episode.ids), episode.session, episode.adapter, limits.max_new_tokens, episode.temperature,
            limits.stop_texts(episode.role.output), seed,
        )  # fmt: skip
        return await self.sampler.generate(request)


async def _observed(
    calls: Sequence[Call] | str, answer: Callable[[Call], Awaitable[Observation | None]]
) -> list[tuple[str, Observation]] | None:
    """Return each call's tool and what it answered, in order; None where one gave no answer. A text of an episode is
    shown as the search's."""
    if isinstance(calls, str):
        return [(SEARCH, Observation(calls))]
    found = [await answer(calls[0])] if len(calls) == 1 else await asyncio.gather(*map(answer, calls))
    named = [(call.name, each) for call, each in zip(calls, found, strict=True) if each is not None]
    return named if len(named) == len(calls) else None


def stable_seed(*parts: object) -> int:
    """Return a 63-bit seed from any values, the same in every process (Python's own hash of a string is not)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


async def gather_bounded(jobs: Sequence[Callable[[], Awaitable[T]]], max_concurrent: int) -> list[T]:
    """Return the jobs' results in order; run at most `max_concurrent` at once, so that memory stays bounded."""
    semaphore = asyncio.Semaphore(max_concurrent)

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with semaphore:
            return await job()

    return list(await asyncio.gather(*(run(job) for job in jobs)))
