"""Tool calls that the model writes: `{"name": "search", "arguments": {"query": "..."}}` in a <tool_call> tag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from aslfast.prompts.parsing import tagged

SEARCH = "search"  # the name of the one tool


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model wrote: the tool's name and its queries; no query where its arguments hold none."""

    name: str
    queries: tuple[str, ...]


def parse_call(text: str) -> Call | None:
    """Return the one tool call of a turn; None where it is malformed. A list of queries stands under `query_list`."""
    count, content = tagged(text, "tool_call")
    try:
        call = json.loads(content) if count == 1 else None
    except (ValueError, RecursionError):
        return None
    match call:
        case {"name": str(name), "arguments": dict(arguments)}:
            return Call(name, _queries(arguments))
    return None


def _queries(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """Return the queries of a call, stripped; none where one of them is no text."""
    queries = arguments.get("query_list", [arguments.get("query")])
    if not isinstance(queries, list) or not all(isinstance(query, str) and query.strip() for query in queries):
        return ()
    return tuple(query.strip() for query in queries)
