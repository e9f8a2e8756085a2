"""What a phase of one's own keeps from step to step, as entries of the training state and back.

An entry is a leaf of the value's JSON, to the depth of a dict in a field of a field: so a commit writes the records of
a pool that changed, and not the whole pool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")
DEPTH = 3


def with_entries(entries: Mapping[str, str], name: str, value: object) -> dict[str, str]:
    """Return the entries with those of `name` replaced by a value's. Raise TypeError for what JSON cannot hold."""
    others = {key: text for key, text in entries.items() if _path(key)[0] != name}
    own = dict(_leaves((name,), msgspec.to_builtins(value, str_keys=True)))
    # an unchanged text stays the same object: what a commit takes for unchanged
    return others | {key: entries[key] if entries.get(key) == text else text for key, text in own.items()}


def kept(entries: Mapping[str, str], name: str, initial: T) -> T:
    """Return what was kept under a name, as the type of `initial`; that itself, read back, where nothing was.

    Its outer dicts come sorted by key: a ledger keeps no other order. Raise TypeError or ValueError for a type that
    JSON cannot hold or give back.
    """
    own = {_path(key)[1:]: json.loads(text) for key, text in entries.items() if _path(key)[0] == name}
    tree = _tree(own) if own else msgspec.to_builtins(initial, str_keys=True)
    return msgspec.convert(tree, type(initial), str_keys=True)


def _path(key: str) -> tuple[str, ...]:
    return tuple(json.loads(key))


def _leaves(path: tuple[str, ...], value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value and len(path) <= DEPTH:
        return [leaf for key, inner in value.items() for leaf in _leaves((*path, key), inner)]
    return [(json.dumps(path), json.dumps(value))]


def _tree(leaves: Mapping[tuple[str, ...], object]) -> object:
    """Return the value that leaves by path make up."""
    if () in leaves:
        return leaves[()]
    tree: dict[str, object] = {}
    for path, value in sorted(leaves.items()):
        at = tree
        for key in path[:-1]:
            inner = at.setdefault(key, {})
            assert isinstance(inner, dict)
            at = inner
        at[path[-1]] = value
    return tree
