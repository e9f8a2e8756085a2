"""Arguments that a model wrote, against the schema of a tool's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aslfast.prompts.schemas import Schema


def typed(arguments: Mapping[str, object], schema: Schema) -> dict[str, Any]:
    """Return the arguments, those texts read as JSON that stand where the schema wants no text: a dialect may have no
    other values, and a model may quote a number."""
    properties = schema["parameters"].get("properties", {})
    return {key: _read(value, properties.get(key, {})) for key, value in arguments.items()}


def _read(value: object, wanted: Any) -> object:
    if not isinstance(value, str) or _takes_text(wanted):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _takes_text(wanted: Any) -> bool:
    """Return whether a JSON schema may admit a text; one that says nothing of types admits everything."""
    if not isinstance(wanted, Mapping):
        return True
    kinds = wanted.get("type")
    if kinds is not None:
        return "string" in ([kinds] if isinstance(kinds, str) else kinds)
    if "enum" in wanted:
        return any(isinstance(value, str) for value in wanted["enum"])
    branches = [*wanted.get("anyOf", ()), *wanted.get("oneOf", ())]
    return any(map(_takes_text, branches)) if branches else "$ref" not in wanted
