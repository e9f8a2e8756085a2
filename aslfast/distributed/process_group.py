"""Several processes that train one run together, each a rank of torchrun's; a process alone is rank 0 of 1.

Python data travels as bytes that their owner encoded, never as pickled objects. All goes through torch.distributed: by
gloo from the CPU, by NCCL from a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aslfast.distributed.byte_collectives import all_gather_bytes, broadcast_bytes
from aslfast.distributed.meeting import Launch, how_to_start, launch_of_environment, meet
from aslfast.distributed.rendezvous import connect_peers
from aslfast.distributed.watchdog import ERROR, STOPPED, Watchdog
from aslfast.errors import UserError

T = TypeVar("T")
# A collective waits for as long as another rank samples, which has no bound. The watchdog finds dead and silent ranks.
COLLECTIVE_TIMEOUT = timedelta(days=7)


class ProcessGroup:
    """All ranks of a run, seen from one of them. Every rank makes the same calls in the same order.

    `model_parallel_size` consecutive ranks form a model-parallel group: they hold one base between them
    (models/fsdp.py), and the first of them, the group leader, samples for all. Where another rank ended the run, a call
    raises KeyboardInterrupt; `init_process_group` says why.
    """

    def __init__(self, rank: int = 0, size: int = 1, watchdog: Watchdog | None = None) -> None:
        self.rank, self.size, self.watchdog, self.model_parallel_size = rank, size, watchdog, 1
        self.gpus: tuple[str, ...] = ()  # of a model-parallel group, as CUDA_VISIBLE_DEVICES names them

    @property
    def is_rank_zero(self) -> bool:
        """Return whether this rank writes and reports for all."""
        return self.rank == 0

    @property
    def restarted(self) -> bool:
        """Return whether torchrun has started all ranks again (--max-restarts)."""
        return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    @property
    def is_group_leader(self) -> bool:
        """Return whether this rank samples for its model-parallel group; every rank of a group of one does."""
        return self.rank % self.model_parallel_size == 0

    def form_model_parallel_groups(self, size: int) -> None:
        """Make every `size` consecutive ranks a model-parallel group. Raise UserError where they do not divide."""
        if size == 1:
            return
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if self.size % size or local % size:
            raise UserError(
                f"distributed.model_parallel_size is {size}, but {self.size} ranks run, {local} on this machine; both "
                f"must be multiples of it: torchrun --nproc-per-node {size}"
            )
        self.model_parallel_size = size
        gpus = self.gather_in_group(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode())
        self.gpus = tuple(name.decode() for name in gpus if name)

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of what is sampled: every n-th item on the leaders of n groups, none elsewhere."""
        if not self.is_group_leader:
            return []
        return items[self.rank // self.model_parallel_size :: self.size // self.model_parallel_size]

    def interleave(self, parts: Sequence[Sequence[T]]) -> list[T]:
        """Return what `shard` took apart, from all ranks' parts, in its order."""
        led = parts[:: self.model_parallel_size]
        return [led[i % len(led)][i // len(led)] for i in range(sum(map(len, led)))]

    def all_gather(self, data: bytes) -> list[bytes]:
        """Return every rank's data, by rank."""
        if self.size == 1:
            return [data]
        return self._exchange(lambda: all_gather_bytes(data, self.size))

    def broadcast(self, data: bytes) -> bytes:
        """Return rank 0's data; the others' is not read."""
        return data if self.size == 1 else self._exchange(lambda: broadcast_bytes(data, self.is_rank_zero))

    def gather_in_group(self, data: bytes) -> list[bytes]:
        """Return the data of each rank of this one's model-parallel group."""
        if self.model_parallel_size == 1:
            return [data]
        start = self.rank - self.rank % self.model_parallel_size
        return self.all_gather(data)[start : start + self.model_parallel_size]

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all ranks, in place, to the same bits on every rank. All of one dtype and device."""
        self._all_reduce(tensors, dist.ReduceOp.SUM)

    def all_reduce_max(self, tensors: Sequence[Tensor]) -> None:
        """Take the maximum over all ranks, element by element, in place."""
        self._all_reduce(tensors, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_gather(b"")

    def _all_reduce(self, tensors: Sequence[Tensor], op: dist.ReduceOp.RedOpType) -> None:
        """Reduce in one message: an adapter has hundreds of small tensors."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._exchange(lambda: dist.all_reduce(flat, op))
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _exchange(self, collective: Callable[[], T]) -> T:
        """Run a collective. A broken connection means that another rank ended: the watchdog finds out which."""
        try:
            return collective()
        except RuntimeError as error:
            if self.watchdog and self.watchdog.ended.wait(self.watchdog.timeout_s):
                raise KeyboardInterrupt from error
            raise


SINGLE_PROCESS = ProcessGroup()


# --- start and end -----------------------------------------------------------------------------------------------


def is_rank_zero() -> bool:
    """Return whether this process reports for all ranks, inside and outside `init_process_group`."""
    launch = launch_of_environment()
    return launch is None or launch.rank == 0


@contextmanager
def init_process_group(resume_command: str) -> Iterator[ProcessGroup]:
    """Yield this process's view of the ranks that torchrun started (WORLD_SIZE, RANK, MASTER_ADDR, ...).

    However one rank's block ends, all end: rank 0 raises what ended the run, the others SystemExit. resume_command:
    what a user types to go on with the run.
    """
    launch = launch_of_environment()
    if launch is None:
        yield ProcessGroup()
        return
    process_group, watchdog = _connect(launch, resume_command)
    try:
        yield process_group
        process_group.barrier()
    except BaseException as error:
        _end_run(watchdog, error)
        raise
    watchdog.leave()
    dist.destroy_process_group()


def _connect(launch: Launch, resume_command: str) -> tuple[ProcessGroup, Watchdog]:
    """Connect with the other ranks, by the watchdog's own connections and by torch.distributed. Raise UserError."""
    _check_gpus()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = meet(launch), launch.rank, launch.size
        watchdog = Watchdog(rank, connect_peers(store, rank, size), resume_command)  # first: its waiting has an end
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"ranks: they cannot connect ({reason}); {how_to_start()}") from error
    return ProcessGroup(rank, size, watchdog), watchdog


def _check_gpus() -> None:
    """Raise UserError unless each rank sees one GPU, its own: its engine and other children use what it sees."""
    if torch.cuda.device_count() > 1 and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"ranks: each sees all {torch.cuda.device_count()} GPUs; start with torchrun --virtual-local-rank, which "
            "gives every rank its own"
        )


def _end_run(watchdog: Watchdog, error: BaseException) -> None:
    """End as another rank has ended, or announce how this one does. Return where `error` is to be raised."""
    stopped = isinstance(error, KeyboardInterrupt)
    end = watchdog.announce_end(STOPPED if stopped else ERROR, " ".join(str(error).split()) or type(error).__name__)
    if not watchdog.should_report(end) and (end.by != watchdog.rank or stopped or isinstance(error, UserError)):
        raise SystemExit(end.code) from error
    if end.by != watchdog.rank:
        raise (KeyboardInterrupt if end.code == STOPPED else UserError)(end.text) from error
