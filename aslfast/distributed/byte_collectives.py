"""Collectives over bytes: torch.distributed moves tensors of one size, so lengths travel first."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_bytes(data: bytes, size: int) -> list[bytes]:
    """Return the data of all `size` ranks, by rank. Padded to the longest: gloo gathers equal sizes."""
    length = torch.tensor([len(data)])
    lengths = [torch.zeros_like(length) for _ in range(size)]
    dist.all_gather(lengths, length)
    padded = _to_tensor(data.ljust(int(max(lengths)), b"\0"))
    received = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(received, padded)
    return [part.numpy()[: int(n)].tobytes() for part, n in zip(received, lengths, strict=True)]


def broadcast_bytes(data: bytes, is_rank_zero: bool) -> bytes:
    """Return rank 0's data on every rank."""
    length = torch.tensor([len(data)])
    dist.broadcast(length, 0)
    sent = _to_tensor(data) if is_rank_zero else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(sent, 0)
    return sent.numpy().tobytes()


def _to_tensor(data: bytes) -> Tensor:
    """Return the bytes as a uint8 tensor [len(data)]; torch.frombuffer refuses an empty buffer."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
