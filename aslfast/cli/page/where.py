"""Conditions on trajectories, as in `--where "reward<0.5 and stop=finished"`: comparisons, joined by `and`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aslfast.errors import UserError

_ONE = re.compile(r"\s*(\w+)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_AND = re.compile(r"""\s+and\s+(?=(?:[^"']*["'][^"']*["'])*[^"']*$)""", re.IGNORECASE)  # none inside of quotes
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
NUMBERS = ("reward", "round", "step", "adapter_version", "sampled", "searches", "match")
TEXTS = ("role", "question", "output", "output_answer", "stop", "task_id", "conversation")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. ~: the column's text contains the value, in any case."""

    column: str
    sign: str
    value: str | float

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row passes; a row without a value fails, except for `!=`."""
        found = row.get(self.column)
        if found is None:
            return self.sign == "!="
        if self.sign == "~":
            return str(self.value).lower() in str(found).lower()
        return _COMPARE[self.sign](found, self.value)


def parse_where(text: str) -> tuple[Condition, ...]:
    """Return the conditions of `--where`; all of them must hold. Raise UserError."""
    return tuple(map(_parsed, _AND.split(text.strip()))) if text.strip() else ()


def _parsed(text: str) -> Condition:
    match = _ONE.fullmatch(text)
    known = ", ".join((*NUMBERS, *TEXTS))
    if not match or match[1] not in (*NUMBERS, *TEXTS):
        raise UserError(f"--where {text!r}: write COLUMN, a sign (< <= > >= = != ~) and a value; columns: {known}")
    column, sign, value = match[1], match[2], match[3].strip("\"'")
    if column in TEXTS:
        if sign not in ("=", "==", "!=", "~"):
            raise UserError(f"--where {text!r}: {column} is a text; compare it by = != or ~ (contains)")
        return Condition(column, sign, value)
    if sign == "~":
        raise UserError(f"--where {text!r}: {column} is a number; compare it by < <= > >= = or !=")
    try:
        return Condition(column, sign, float(value))
    except ValueError as error:
        raise UserError(f"--where {text!r}: {column} is a number, {value!r} is none") from error
