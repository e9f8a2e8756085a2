"""What a tool returned, as the text that the model reads."""

from __future__ import annotations

import msgspec


def as_text(result: object) -> str:
    """Return a text as it is, anything else as JSON: NaN and None are null, an object that JSON does not know a text.

    Raise ValueError or RecursionError for what has no end.
    """
    if isinstance(result, str):
        return result
    return msgspec.json.encode(result, enc_hook=str).decode()


def cut(text: str, most: int) -> str:
    """Return the text or, where it has more characters, the first of them and a note that says so."""
    return text if len(text) <= most else f"{text[:most]}\n(cut here: {len(text):,} characters in all)"


def error_text(error: BaseException) -> str:
    """Return an error of a tool in a line or, where it has a message of several, in a few."""
    return f"{type(error).__name__}: {str(error).strip()}".rstrip(": ")
