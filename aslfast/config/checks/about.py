"""What a recipe says of itself, in its table [about]: whose idea it is, who plays, what it needs, how we differ.

It decides nothing, is not inherited through `extends`, and is no part of a run's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from aslfast.errors import UserError

NEEDS = {
    "labels": "labelled questions",
    "passages": "an index of passages",
    "judge": "a judge stronger than the policy",
    "cold-start": "adapters that were fine-tuned on demonstrations",
}


@dataclass(frozen=True, slots=True)
class About:
    """One recipe, told in plain words."""

    line: str = ""  # one sentence: what it is
    paper: str = ""  # "arXiv NUMBER", or where else it is from
    of: str = ""  # the recipe whose paper, roles, flow and rewards these are too, where they are not told here
    needs: tuple[str, ...] = ()  # keys of NEEDS, beside a model
    roles: Mapping[str, str] = field(default_factory=dict)  # those that play: what each does
    flow: tuple[str, ...] = ()  # the acts of a step, in order
    rewards: Mapping[str, str] = field(default_factory=dict)  # by role, with the formula
    deviations: tuple[str, ...] = ()  # from the paper, and what it leaves open


def read_about(table: object, place: str) -> About:
    """Return what a table [about] says. Raise UserError for what it may not hold."""
    if not isinstance(table, Mapping):
        raise UserError(f"{place}: about is a table; write [about] and its keys below")
    known = {item.name: getattr(About(), item.name) for item in fields(About)}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{place}: unknown key about.{key!s:.40}; use {', '.join(known)}")
        if not _fits(value, known[key]):
            kind = {str: "a text", tuple: "a list of texts", dict: "a table of texts"}[type(known[key])]
            raise UserError(f"{place}: about.{key} is {value!r:.80}; it takes {kind}")
    if unknown := [need for need in table.get("needs", ()) if need not in NEEDS]:
        raise UserError(f"{place}: about.needs has {unknown[0]!r:.40}; use {', '.join(NEEDS)}")
    told: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return About(**told)


def told_with(about: About, other: About) -> About:
    """Return what a recipe says of itself, over what the recipe that it names with `of` says."""
    own: dict[str, Any] = {item.name: getattr(about, item.name) for item in fields(About)}
    shared = ("paper", "roles", "flow", "rewards")
    told = {key: own[key] or getattr(other, key) for key in shared}
    return About(**{**own, **told, "deviations": (*other.deviations, *about.deviations)})


def _fits(value: object, default: object) -> bool:
    if isinstance(default, str):
        return isinstance(value, str)
    inner = value.values() if isinstance(value, Mapping) else value
    same = isinstance(value, list) if isinstance(default, tuple) else isinstance(value, Mapping)
    return same and all(isinstance(each, str) for each in inner)  # type: ignore[union-attr]
