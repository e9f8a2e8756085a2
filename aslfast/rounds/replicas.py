"""What several ranks share of a run: the tasks of a step and of a measurement, what came of them, start and folder.

Each rank plays its part of the tasks, under seeds that are a task's own, and then has all groups, in the order of the
tasks. So everything that follows is the same on every rank, whatever their number, and rank 0 alone writes it down.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import PoolQuestion, TrainState, of_data, restore, snapshot
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.core import Group, Task, Trajectory
from aslfast.distributed.collectives import all_gather_objects, broadcast_object
from aslfast.distributed.process_group import ProcessGroup
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import learner_bytes, put_learner
from aslfast.models import lora
from aslfast.rewards import normalize
from aslfast.rounds.context import Loop
from aslfast.sampler.prefix_cache_stats import PrefixCacheCounts


@dataclass(frozen=True)
class Played:
    """What one rank tells the others of its part of a step."""

    groups: list[Group]
    offered: dict[str, list[PoolQuestion]]
    sampled_tokens: int
    tool_failed: int
    asked: int
    reused: int
    reuse: dict[str, PrefixCacheCounts]


async def groups(
    loop: Loop, tasks: Sequence[Task], group_of: Callable[[Loop, Task], Coroutine[Any, Any, Group]]
) -> list[Group]:
    """A group for each task, in order; the pool and the step's counts become those of all ranks."""
    pool, ranks = dict(loop.pool), loop.ranks
    own = list(await asyncio.gather(*(group_of(loop, task) for task in ranks.shard(tasks))))
    judging = loop.judging
    played = Played(
        own, loop.offered, loop.sampled_tokens, loop.tool_failed, judging.asked, judging.reused, loop.meter.take()
    )
    every = all_gather_objects(ranks, played, Played)
    loop.sampled_tokens, loop.tool_failed = sum(p.sampled_tokens for p in every), sum(p.tool_failed for p in every)
    judging.asked, judging.reused = sum(p.asked for p in every), sum(p.reused for p in every)
    loop.meter.put(_added([p.reuse for p in every]))
    _into_pool(pool, tasks, {task: questions for p in every for task, questions in p.offered.items()})
    loop.pool = pool
    return ranks.interleave([p.groups for p in every])


def _into_pool(
    pool: dict[str, PoolQuestion], tasks: Sequence[Task], offered: Mapping[str, Sequence[PoolQuestion]]
) -> None:
    """In the order of the tasks: that in which groups are done depends on who plays beside whom."""
    for task in tasks:
        for question in offered.get(task.id, ()):
            pool.setdefault(normalize(question.question), question)


def _added(parts: Sequence[Mapping[str, PrefixCacheCounts]]) -> dict[str, PrefixCacheCounts]:
    names = sorted({name for part in parts for name in part})
    counts = {name: [astuple(part[name]) for part in parts if name in part] for name in names}
    return {name: PrefixCacheCounts(*map(sum, zip(*rows, strict=True))) for name, rows in counts.items()}


def own_part(
    ranks: ProcessGroup, trajectories: Sequence[Trajectory], advantages: Sequence[float]
) -> tuple[list[Trajectory], list[float]]:
    """What this rank's learner takes: a run of them, so that most groups stay whole (they share their prompts), of
    about as many tokens as the others'."""
    total, before, own = sum(len(t.token_ids) for t in trajectories), 0, []
    for pair in zip(trajectories, advantages, strict=True):
        n = len(pair[0].token_ids)
        if (2 * before + n) * ranks.size // (2 * total) == ranks.rank:
            own.append(pair)
        before += n
    return [t for t, _ in own], [a for _, a in own]


async def played(
    ranks: ProcessGroup, tasks: Sequence[Task], play: Callable[[Sequence[Task]], Coroutine[Any, Any, list[Trajectory]]]
) -> list[Trajectory]:
    """One trajectory a task, in order, each played by one of the ranks."""
    return ranks.interleave(all_gather_objects(ranks, await play(ranks.shard(tasks)), list[Trajectory]))


# --- one start, one folder, one state ----------------------------------------------------------------------------


def broadcast_config(ranks: ProcessGroup, config: Callable[[], RunConfig]) -> RunConfig:
    """Rank 0's configuration, on every rank; a rank's silence is measured by it from now on, and cells are formed."""
    text = to_toml(config()) if ranks.is_rank_zero else ""
    text = ranks.broadcast(text.encode()).decode()
    config_of_all = from_tree(toml.parse(text), "rank 0's configuration")
    if ranks.watchdog:
        ranks.watchdog.timeout_s = config_of_all.distributed.timeout_s
    ranks.form_model_parallel_groups(config_of_all.distributed.model_parallel_size)
    return config_of_all


def sync_initial_state(learner: Learner, state: TrainState, inputs: Mapping[str, str]) -> None:
    """Every rank's learner and state become rank 0's. Raises UserError where a rank reads other inputs than rank 0."""
    ranks = learner.ranks
    if ranks.size == 1:
        return
    for rank, theirs in enumerate(all_gather_objects(ranks, dict(inputs), dict[str, str])):
        if key := next((key for key, mark in inputs.items() if theirs.get(key) != mark), None):
            raise UserError(f"{key}: rank {rank} has another one than rank {ranks.rank}; give all ranks the same")
    values, versions = broadcast_object(
        ranks, (snapshot(state), learner.version), tuple[dict[str, Any], dict[str, int]]
    )
    restore(state, snapshot(of_data(values)))
    for role in learner.version:
        put_learner(learner, role, versions[role], ranks.broadcast(learner_bytes(learner, role)))


def broadcast_record(ranks: ProcessGroup, line: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's line, on every rank."""
    return broadcast_object(ranks, line, dict[str, Any])


def assert_replicas_in_sync(learner: Learner, state: TrainState) -> None:
    """That all ranks hold the same weights and the same state, to the bit. Raises UserError."""
    marks = all_gather_objects(learner.ranks, _mark(learner, state) if learner.ranks.size > 1 else "", str)
    if other := next((rank for rank, mark in enumerate(marks) if mark != marks[0]), None):
        raise UserError(
            f"round {state.round}: rank {other} no longer holds the weights and the state of rank 0; go on from the "
            "last step with --resume, and see that all ranks run the same software on the same kind of device"
        )


def _mark(learner: Learner, state: TrainState) -> str:
    values = snapshot(state) | {"seconds": 0.0}  # each rank has a clock of its own
    digest = blake2b(msgspec.json.encode(values), digest_size=16)
    for role in learner.version:
        for parameter in lora.parameters_of(learner.model, role):
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class NullRunDir(RunDir):
    """What a rank other than 0 has in place of the run's folder: a temporary one, into which nothing is committed."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="aslfast-")
        self.path, self.files, self.facts, self.notices = Path(self._temporary.name), {}, {}, []
        self.measured = True  # nothing of it is to be cleared after an error

    def close(self) -> None:
        self._temporary.cleanup()

    def writing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def finish(self) -> None:
        pass


CommitFunction = TypeVar("CommitFunction", bound=Callable[..., None])


def rank_zero_only(commit: CommitFunction) -> CommitFunction:
    """Rank 0 alone commits: the others hold the same state and write nothing."""

    @functools.wraps(commit)
    def committed(loop: Loop, *given: Any, **named: Any) -> None:
        if loop.ranks.is_rank_zero:
            commit(loop, *given, **named)

    return committed  # pyright: ignore[reportReturnType]
