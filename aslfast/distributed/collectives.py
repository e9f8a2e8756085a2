"""Collectives over Python objects: what msgspec can hold (dataclasses, numbers, texts, lists and dicts of them)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from aslfast.distributed.process_group import ProcessGroup

T = TypeVar("T")


def all_gather_objects(process_group: ProcessGroup, value: T, kind: type[T]) -> list[T]:
    """Return every rank's value, by rank. As msgpack: floats keep their bits, NaN included."""
    if process_group.size == 1:
        return [value]
    parts = process_group.all_gather(msgspec.msgpack.encode(value))
    return [msgspec.msgpack.decode(part, type=kind) for part in parts]


def broadcast_object(process_group: ProcessGroup, value: T, kind: type[T]) -> T:
    """Return rank 0's value on every rank. As JSON, like the files that hold such values: NaN becomes null."""
    if process_group.size == 1:
        return value
    return msgspec.json.decode(process_group.broadcast(msgspec.json.encode(value)), type=kind)


def broadcast_in_group(process_group: ProcessGroup, value: T | None, kind: type[T]) -> T:
    """Return the group leader's value on every rank of its model-parallel group; the others' is not sent."""
    data = msgspec.json.encode(value) if process_group.is_group_leader else b""
    return msgspec.json.decode(process_group.gather_in_group(data)[0], type=kind)
