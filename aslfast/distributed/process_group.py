"""Several processes that train one run together, each a rank of torchrun's; a process alone is rank 0 of 1.

Python data travels as bytes that their owner encoded, never as pickled objects. All goes through torch.distributed, by
gloo from the CPU, by NCCL from a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from aslfast.distributed.rendezvous import connect_peers
from aslfast.distributed.watchdog import ERROR, STOPPED, Watchdog
from aslfast.errors import UserError

T = TypeVar("T")
# Of a collective: how long another rank may sample, nobody knows. Who is dead or silent, the watch tells, and sooner.
PATIENCE = timedelta(days=7)


class ProcessGroup:
    """All ranks of a run, seen from one of them. Every rank makes the same calls in the same order.

    `cell` neighbours hold one base between them (shards.py); the first of each cell samples for it. Where another rank
    ended the run, a call raises KeyboardInterrupt; `init_process_group` says why.
    """

    def __init__(self, rank: int = 0, size: int = 1, watch: Watchdog | None = None) -> None:
        self.rank, self.size, self.watch, self.model_parallel_size = rank, size, watch, 1
        self.gpus: tuple[str, ...] = ()  # of a cell of several ranks, as CUDA_VISIBLE_DEVICES names them

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes and reports for all."""
        return self.rank == 0

    @property
    def restarted(self) -> bool:
        """Whether torchrun has started all ranks again (--max-restarts)."""
        return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    @property
    def is_group_leader(self) -> bool:
        """Whether this rank samples for its cell; alone in it, each does."""
        return self.rank % self.model_parallel_size == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what is to be sampled: every n-th item of n cells."""
        return (
            items[self.rank // self.model_parallel_size :: self.size // self.model_parallel_size]
            if self.is_group_leader
            else []
        )

    def interleave(self, parts: Sequence[Sequence[T]]) -> list[T]:
        """What `share` took apart, from all ranks' parts, in its order."""
        led = parts[:: self.model_parallel_size]
        return [led[i % len(led)][i // len(led)] for i in range(sum(map(len, led)))]

    def all_gather(self, data: bytes) -> list[bytes]:
        """Every rank's data, by rank."""
        if self.size == 1:
            return [data]
        return self._together(lambda: _gather(data, self.size))

    def broadcast(self, data: bytes) -> bytes:
        """Rank 0's data; the others' is not read."""
        return data if self.size == 1 else self._together(lambda: _from_first(data, self.is_rank_zero))

    def gather_in_group(self, data: bytes) -> list[bytes]:
        """The data of each rank of this one's cell."""
        start = self.rank - self.rank % self.model_parallel_size
        return (
            self.all_gather(data)[start : start + self.model_parallel_size] if self.model_parallel_size > 1 else [data]
        )

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Adds up each tensor over all ranks, in place, to the same bits on every rank. All of one type and device."""
        self._reduce(tensors, dist.ReduceOp.SUM)

    def all_reduce_max(self, tensors: Sequence[Tensor]) -> None:
        """The greatest over all ranks, element by element, in place."""
        self._reduce(tensors, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        """Until every rank is here."""
        self.all_gather(b"")

    def _reduce(self, tensors: Sequence[Tensor], how: Any) -> None:
        """In one message: there are hundreds of small tensors in an adapter."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._together(lambda: dist.all_reduce(flat, how))
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _together(self, exchange: Callable[[], T]) -> T:
        """A broken connection is another rank's end: the watch knows whose."""
        try:
            return exchange()
        except RuntimeError as error:
            if self.watch and self.watch.ended.wait(self.watch.timeout_s):
                raise KeyboardInterrupt from error
            raise


SINGLE_PROCESS = ProcessGroup()


def _gather(data: bytes, size: int) -> list[bytes]:
    """Padded to the longest: gloo gathers equal sizes."""
    own = torch.tensor([len(data)])
    lengths = [torch.zeros_like(own) for _ in range(size)]
    dist.all_gather(lengths, own)
    padded = _tensor(data.ljust(int(max(lengths)), b"\0"))
    received = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(received, padded)
    return [part.numpy()[: int(n)].tobytes() for part, n in zip(received, lengths, strict=True)]


def _from_first(data: bytes, is_rank_zero: bool) -> bytes:
    length = torch.tensor([len(data)])
    dist.broadcast(length, 0)
    sent = _tensor(data) if is_rank_zero else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(sent, 0)
    return sent.numpy().tobytes()


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


# --- joining and leaving -----------------------------------------------------------------------------------------


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks, before or after it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def init_process_group(go_on: str) -> Iterator[ProcessGroup]:
    """This process among those that torchrun started (WORLD_SIZE, RANK, MASTER_ADDR, ...), until the block ends.

    However one rank's block ends, all end: rank 0 raises what ended the run, the others SystemExit. go_on: the command
    that goes on with the run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    ranks, watch = _join(go_on)
    try:
        yield ranks
        ranks.barrier()
    except BaseException as error:
        _leave(watch, error)
        raise
    watch.leave()
    dist.destroy_process_group()


def _join(go_on: str) -> tuple[ProcessGroup, Watchdog]:
    _check_gpus()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://")))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        watch = Watchdog(rank, connect_peers(store, rank, size), go_on)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"ranks: they did not meet ({reason}); start all of them with torchrun") from error
    return ProcessGroup(rank, size, watch), watch


def _check_gpus() -> None:
    """Each rank has the one GPU that it sees: so have its engine and whatever else it starts."""
    if torch.cuda.device_count() > 1 and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"ranks: each sees all {torch.cuda.device_count()} GPUs; start with torchrun --virtual-local-rank, which "
            "gives every rank its own"
        )


def _leave(watch: Watchdog, error: BaseException) -> None:
    """Ends as another rank has ended, or tells the others how this one does. Returns where `error` is to be raised."""
    stopped = isinstance(error, KeyboardInterrupt)
    end = watch.announce_end(STOPPED if stopped else ERROR, " ".join(str(error).split()) or type(error).__name__)
    if not watch.should_report(end) and (end.by != watch.rank or stopped or isinstance(error, UserError)):
        raise SystemExit(end.code) from error
    if end.by != watch.rank:
        raise (KeyboardInterrupt if end.code == STOPPED else UserError)(end.text) from error
