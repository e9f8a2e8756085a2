"""What the values of a configuration may be, stated beside each field and checked where a configuration is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from aslfast.errors import UserError
from aslfast.limits import MOST


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of numbers from `low` to `high`, both included unless `open_low` or `open_high`; `or_zero` adds 0."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False
    or_zero: bool = False

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return (self.or_zero and number == 0) or (above and below)  # NaN is in no range

    def __str__(self) -> str:
        low, high = _shown(self.low), _shown(self.high)
        off = "0 (off) or " if self.or_zero else ""
        if not (self.open_low or self.open_high):
            return f"{off}between {low} and {high}"
        least, most = "above" if self.open_low else "at least", "below" if self.open_high else "at most"
        return f"{off}{least} {low} and {most} {high}"


def check_option(name: str, table: Any, key: str, value: float) -> None:
    """Raise UserError where an option's value is out of the bounds of the key, in a dataclass, that it replaces."""
    bounds = next(item.metadata["bounds"] for item in fields(table) if item.name == key)
    if value not in bounds:
        raise UserError(f"{name} {value}: it must be {bounds}")


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def number(default: Any, low: float = 0.0, high: float = MOST, **options: bool) -> Any:
    """Declare a field of a number, or of a tuple of numbers, with its bounds."""
    return field(default=default, metadata={"bounds": Bounds(low, high, **options)})


def positive(default: Any, high: float = MOST) -> Any:
    """Declare a field of numbers above 0."""
    return number(default, 0.0, high, open_low=True)


def fraction(default: Any) -> Any:
    """Declare a field of numbers from 0 to 1."""
    return number(default, 0.0, 1.0)


def named(default: Any, choices: Iterable[str]) -> Any:
    """Declare a field of a name out of a table that another package keeps, or of an import path, `module:name`."""
    return field(default=default, metadata={"choices": tuple(choices), "importable": True})
