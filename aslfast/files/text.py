"""Text from files of users: UTF-8, with or without a byte order mark. Anything else is refused in one line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from aslfast.errors import UserError

OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's little-endian mark begins with the first


def decode(data: bytes, place: str) -> str:
    """Return UTF-8 as text without its byte order mark. Raises UserError, which names the place and the encoding."""
    if data.startswith(OTHER_MARKS):
        raise UserError(f"{place}: UTF-16 or UTF-32, not UTF-8; save the file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from error
    if "\0" in text:  # every other byte of UTF-16 without a mark
        raise UserError(f"{place}: has a NUL character, as UTF-16 does; save the file as UTF-8")
    return text


def read_text(file: Path) -> str:
    r"""Return a whole file, its lines ended by "\n". Raises OSError, and UserError where it is not UTF-8."""
    return decode(file.read_bytes(), str(file)).replace("\r\n", "\n")


def decoded_lines(file: Path) -> Iterator[str]:
    """Stream the lines of a file with their ends. Raises OSError, and UserError where one is not UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield decode(line, f"{file}:{number}")
