"""Wire messages between the trainer and the engine server: lengths, a JSON header, raw bytes. No pickle."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import orjson

LENGTHS = struct.Struct("<II")  # bytes of the header, bytes of the payload
MAX_HEADER = 64 << 20
MAX_PAYLOAD = (1 << 32) - 1  # an adapter's weights

Header = dict[str, Any]  # JSON
Message = tuple[Header, bytes]


def pack(header: Header, payload: bytes = b"") -> bytes:
    """Return the bytes of a message. Raise ValueError where a part is larger than the other side would read."""
    text = orjson.dumps(header)
    _check(len(text), len(payload))
    return b"".join((LENGTHS.pack(len(text), len(payload)), text, payload))


def read(read_exactly: Callable[[int], bytes]) -> Message:
    """Read one message by `read_exactly(n)`, which returns n bytes. Raise ValueError for what is no message."""
    n_header, n_payload = _lengths(read_exactly(LENGTHS.size))
    return _header(read_exactly(n_header)), read_exactly(n_payload)


async def read_async(reader: asyncio.StreamReader) -> Message:
    """Read one message. Raise IncompleteReadError at the end of the stream, ValueError for what is no message."""
    n_header, n_payload = _lengths(await reader.readexactly(LENGTHS.size))
    return _header(await reader.readexactly(n_header)), await reader.readexactly(n_payload)


def receive(connection: socket.socket, n: int) -> bytes:
    """Return exactly n bytes. Raise OSError at the end of the connection."""
    data = bytearray()
    while len(data) < n:
        part = connection.recv(min(n - len(data), 1 << 20))
        if not part:
            raise OSError("the connection is closed")
        data += part
    return bytes(data)


def _lengths(data: bytes) -> tuple[int, int]:
    n_header, n_payload = LENGTHS.unpack(data)
    _check(n_header, n_payload)
    return n_header, n_payload


def _check(n_header: int, n_payload: int) -> None:
    if n_header > MAX_HEADER or n_payload > MAX_PAYLOAD:
        raise ValueError(f"message of {n_header} + {n_payload} bytes; at most {MAX_HEADER} + {MAX_PAYLOAD}")


def _header(text: bytes) -> Header:
    header = orjson.loads(text)
    if not isinstance(header, dict):
        raise ValueError("a message's header is not a JSON object")
    return header
