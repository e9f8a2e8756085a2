"""The header of a GGUF file, read with every length and place checked against the file: it is untrusted input.

The format, versions 2 and 3, little-endian: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package
gguf, with which transformers reads the weights, believes every count and loops over it.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aslfast.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LEAST_FIELD, LEAST_TENSOR = 13, 24  # bytes in the header
MOST_AXES = 4
ALIGNMENT = 32  # bytes, where the file names none

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in the file: its axes, the fastest first, GGML's number of its type, its place among the data."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself. `place` is how errors name it."""

    place: str
    fields: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data_at: int  # bytes from the start of the file

    def text(self, key: str) -> str | None:
        """Return a field of text, None where the file has none. Raise UserError for one of another type."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, str):
            raise damaged(self.place, f"{key} is no text")
        return value

    def number(self, key: str) -> int | None:
        """Return a field that is a whole number of 0 or more, None where there is none. Raise UserError."""
        value = self.fields.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise damaged(self.place, f"{key} is no whole number of 0 or more")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a field that is a list of texts, an empty list where there is none. Raise UserError."""
        value = self.fields.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise damaged(self.place, f"{key} is no list of texts")
        return [str(one) for one in value]

    @property
    def n_weights(self) -> int:
        """The numbers that its tensors hold."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def quantisation(self) -> dict[str, int]:
        """Return how many tensors are of each of GGML's types, by its name."""
        from gguf import GGMLQuantizationType

        return dict(sorted(Counter(GGMLQuantizationType(tensor.kind).name for tensor in self.tensors.values()).items()))


def damaged(place: str, why: str) -> UserError:
    """Return the error for a file that breaks its format."""
    return UserError(f"{place}: not a GGUF model that can be read ({why}); copy the file again, complete")


def read_header(file: Path, place: str) -> GgufHeader:
    """Read and check the header; no weights are read. Raise UserError for what is no complete GGUF model, OSError."""
    size = file.stat().st_size
    if size < len(MAGIC):
        raise damaged(place, f"{size} bytes")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _Cursor(data, place).header()
    _check_parts(header)
    _check_tensors(header, size)
    return header


class _Cursor:
    """A place in the file from which values are read, one after the other."""

    def __init__(self, data: mmap.mmap, place: str) -> None:
        self.data, self.place, self.at = data, place, 0

    def header(self) -> GgufHeader:
        if self._bytes(len(MAGIC)) != MAGIC:
            raise damaged(self.place, f"it begins with {self.data[:4]!r}, not with {MAGIC!r}")
        version = self._number("I")
        if version not in VERSIONS:
            raise damaged(self.place, f"version {version} in little-endian order, known are {VERSIONS}")
        n_tensors, n_fields = self._numbers("Q", 2)
        self._need(n_fields * LEAST_FIELD + n_tensors * LEAST_TENSOR)
        fields = self._named(n_fields, lambda: self._value(self._number("I")))
        tensors = self._named(n_tensors, self._tensor)
        alignment = fields.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise damaged(self.place, "general.alignment is no power of two")
        return GgufHeader(self.place, fields, tensors, -(-self.at // alignment) * alignment)

    def _named(self, count: int, read: Callable[[], T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for _ in range(count):
            name = self._text()
            if name in found:
                raise damaged(self.place, f"{name[:80]!r} is there twice")
            found[name] = read()
        return found

    def _value(self, kind: int) -> Value:
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._number(self._code(kind))
        kind, count = self._number("I"), self._number("Q")
        if kind != STRING:
            return list(self._numbers(self._code(kind), count))
        self._need(count * 8)
        return [self._text() for _ in range(count)]

    def _tensor(self) -> TensorInfo:
        n_axes = self._number("I")
        if n_axes > MOST_AXES:
            raise damaged(self.place, f"a tensor of {n_axes} axes")
        return TensorInfo(self._numbers("Q", n_axes), self._number("I"), self._number("Q"))

    def _code(self, kind: int) -> str:
        if kind not in SCALARS:
            raise damaged(self.place, f"a value of the unknown type {kind}")
        return SCALARS[kind]

    def _text(self) -> str:
        try:
            return self._bytes(self._number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(self.place, "a text that is not UTF-8") from error

    def _number(self, code: str) -> int:
        return self._numbers(code, 1)[0]

    def _numbers(self, code: str, count: int) -> tuple[int, ...]:
        size = struct.calcsize(f"<{code}") * count
        self._need(size)
        self.at += size
        return struct.unpack_from(f"<{count}{code}", self.data, self.at - size)

    def _bytes(self, count: int) -> bytes:
        self._need(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def _need(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise damaged(self.place, f"its header ends after {len(self.data)} bytes, in the middle of a value")


def _check_parts(header: GgufHeader) -> None:
    """Raise UserError for one file of several, and for a number of layers that the file cannot hold."""
    if (header.number("split.count") or 1) > 1:
        raise UserError(f"{header.place}: one of several files of a model; join them with llama-gguf-split --merge")
    architecture = header.text("general.architecture")
    if not architecture:
        raise damaged(header.place, "general.architecture is missing")
    layers = header.number(f"{architecture}.block_count")
    if layers is None or layers > len(header.tensors):  # transformers loops over them, whatever their number
        raise damaged(header.place, f"{architecture}.block_count is {layers}, for {len(header.tensors)} tensors")


def _check_tensors(header: GgufHeader, size: int) -> None:
    """Raise UserError where a tensor's type is unknown, or its data lie outside the file."""
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): block for kind, block in GGML_QUANT_SIZES.items()}
    for name, tensor in header.tensors.items():
        if tensor.kind not in sizes:
            raise damaged(header.place, f"{name[:80]} is of the unknown type {tensor.kind}")
        numbers, of_bytes = sizes[tensor.kind]
        row, rows = (*tensor.shape, 1)[0], math.prod(tensor.shape[1:])
        end = header.data_at + tensor.offset + row // numbers * of_bytes * rows
        if row % numbers or end > size:
            raise damaged(header.place, f"{name[:80]} ends at byte {end}, the file at {size}")
