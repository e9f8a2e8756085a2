"""What several ranks share of a run: the tasks of a step and of an evaluation, what came of them, start and state.

Each rank plays its part of the tasks, under seeds that are a task's own, and then has all groups, in the order of the
tasks. So everything that follows is the same on every rank, whatever their number, and rank 0 alone writes it down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
import torch

from aslfast.checkpoint.state import TrainState, restore
from aslfast.config import RunConfig, from_tree, to_toml, toml
from aslfast.core import Task, Trajectory
from aslfast.distributed.collectives import all_gather_objects, broadcast_object
from aslfast.distributed.process_group import ProcessGroup
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import learner_bytes, load_learner_bytes
from aslfast.models import lora
from aslfast.rollout.context import RolloutContext
from aslfast.rollout.counters import StepCounters
from aslfast.rounds.group_result import GroupResult
from aslfast.rounds.records import RoundRecord
from aslfast.sampler.prefix_cache_stats import PrefixCacheCounts, PrefixCacheMeter

T = TypeVar("T")
PlayGroup = Callable[[RolloutContext, Task], Coroutine[Any, Any, GroupResult]]


@dataclass(frozen=True)
class _RankRollouts:
    """What one rank tells the others of its part of a step."""

    results: list[GroupResult]
    prefix_cache: dict[str, PrefixCacheCounts]


@dataclass(frozen=True)
class StepRollouts:
    """The groups of a step, in the order of its tasks, and what all ranks' rollouts add up to."""

    results: Sequence[GroupResult]
    counters: StepCounters
    prefix_cache: Mapping[str, PrefixCacheCounts]


async def play_groups(
    ranks: ProcessGroup, prefix_cache: PrefixCacheMeter, context: RolloutContext, tasks: Sequence[Task],
    play: PlayGroup,
) -> StepRollouts:  # fmt: skip
    """Play a group for each task, each on one of the ranks; all ranks return the same."""
    own = await asyncio.gather(*(play(context.for_group(), task) for task in ranks.shard(tasks)))
    every = all_gather_objects(ranks, _RankRollouts(list(own), prefix_cache.take()), _RankRollouts)
    results = ranks.interleave([part.results for part in every])
    counters = StepCounters.total(result.counters for result in results)
    return StepRollouts(results, counters, _total([part.prefix_cache for part in every]))


def _total(parts: Sequence[Mapping[str, PrefixCacheCounts]]) -> dict[str, PrefixCacheCounts]:
    names = sorted({name for part in parts for name in part})
    counts = {name: [astuple(part[name]) for part in parts if name in part] for name in names}
    return {name: PrefixCacheCounts(*map(sum, zip(*rows, strict=True))) for name, rows in counts.items()}


def own_part(
    ranks: ProcessGroup, trajectories: Sequence[Trajectory], signals: Sequence[T]
) -> tuple[list[Trajectory], list[T]]:
    """Return the trajectories that this rank's learner takes, with their advantages or signals.

    A contiguous run, so that most groups stay whole (they share their prompts), of about as many tokens as the others.
    """
    total, before, own = sum(len(t.token_ids) for t in trajectories), 0, []
    for pair in zip(trajectories, signals, strict=True):
        n = len(pair[0].token_ids)
        if (2 * before + n) * ranks.size // (2 * total) == ranks.rank:
            own.append(pair)
        before += n
    return [t for t, _ in own], [a for _, a in own]


async def play_tasks(
    ranks: ProcessGroup, tasks: Sequence[T], play: Callable[[Sequence[T]], Coroutine[Any, Any, list[Trajectory]]]
) -> list[Trajectory]:
    """Return one trajectory a task, in order, each played by one of the ranks."""
    return ranks.interleave(all_gather_objects(ranks, await play(ranks.shard(tasks)), list[Trajectory]))


# --- one start, one folder, one state ----------------------------------------------------------------------------


def broadcast_config(ranks: ProcessGroup, config: Callable[[], RunConfig]) -> RunConfig:
    """Return rank 0's configuration on every rank; set the heartbeat's timeout and the model-parallel groups by it."""
    text = to_toml(config()) if ranks.is_rank_zero else ""
    text = ranks.broadcast(text.encode()).decode()
    shared = from_tree(toml.parse(text), "rank 0's configuration")
    if ranks.watchdog:
        ranks.watchdog.timeout_s = shared.distributed.timeout_s
    ranks.form_model_parallel_groups(shared.distributed.model_parallel_size)
    return shared


def sync_initial_state(learner: Learner, state: TrainState, inputs: Mapping[str, str]) -> None:
    """Set every rank's learner and state to rank 0's. Raises UserError where a rank reads other inputs than rank 0."""
    ranks = learner.ranks
    if ranks.size == 1:
        return
    for rank, theirs in enumerate(all_gather_objects(ranks, dict(inputs), dict[str, str])):
        if key := next((key for key, mark in inputs.items() if theirs.get(key) != mark), None):
            raise UserError(f"{key} differs between rank {rank} and rank {ranks.rank}; give all ranks the same")
    restore(state, broadcast_object(ranks, state, TrainState))
    sync_learner(learner)


def sync_learner(learner: Learner) -> None:
    """Set every rank's learner to rank 0's: weights, optimizers and versions."""
    ranks = learner.ranks
    if ranks.size == 1:
        return
    versions = broadcast_object(ranks, learner.version, dict[str, int])
    for role in learner.version:
        load_learner_bytes(learner, role, versions[role], ranks.broadcast(learner_bytes(learner, role)))


def broadcast_record(ranks: ProcessGroup, record: RoundRecord) -> RoundRecord:
    """Return rank 0's record on every rank."""
    return broadcast_object(ranks, record, RoundRecord)


def assert_replicas_in_sync(learner: Learner, state: TrainState) -> None:
    """Raise UserError unless all ranks hold the same weights and the same state, to the bit."""
    marks = all_gather_objects(learner.ranks, _mark(learner, state) if learner.ranks.size > 1 else "", str)
    if other := next((rank for rank, mark in enumerate(marks) if mark != marks[0]), None):
        raise UserError(
            f"round {state.round}: rank {other} no longer holds the weights and the state of rank 0; go on from the "
            "last step with --resume, and see that all ranks run the same software on the same kind of device"
        )


def _mark(learner: Learner, state: TrainState) -> str:
    values = replace(state, seconds=0.0)  # each rank has a clock of its own
    digest = blake2b(msgspec.json.encode(values), digest_size=16)
    for role in learner.version:
        for parameter in lora.parameters_of(learner.model, role):
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
