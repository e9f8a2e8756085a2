"""The options of a system's phase, the table [own_phase.NAME.options], read as a frozen dataclass."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import msgspec

from aslfast.errors import UserError
from aslfast.phase import OwnPhase

T = TypeVar("T")


def options_of(phase: OwnPhase, kind: type[T]) -> T:
    """Return a phase's options as they are now, over the defaults of `kind`. Raise UserError for what it has not."""
    given: dict[str, Any] = dict(phase.options)
    place, known = f"own_phase.{type(phase).__name__}.options", [item.name for item in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := sorted(given.keys() - set(known)):
        raise UserError(f"unknown key {place}.{unknown[0]}; use {', '.join(known)}")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{place}: {error}") from None
