"""A request's JSON, checked field by field against the server's limits, and how one is refused.

As Search-R1's server does, it takes what other clients send: fields that it does not know, which it leaves alone, and
numbers and booleans as text.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_TOPK = 3  # as Search-R1's server starts with
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one request, of all requests in progress together, and of waiting for a client. All above 0."""

    queries: int = 4096  # in one request; Search-R1 sends those of a whole batch of trajectories at once
    query_chars: int = 32_768
    topk: int = 100
    hits: int = 65_536  # queries x topk in one request
    body_bytes: int = 8 * 2**20
    requests: int = 512  # in progress at once
    hits_in_progress: int = 2**20  # queries x topk of all of them
    connections: int = 768  # open at once
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: int = 75  # for a connection between two requests
    stalled_timeout_s: float = 60.0  # for a client that does not read its answer
    shutdown_timeout_s: int = 30

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if not getattr(self, item.name) > 0:
                raise ValueError(f"limits: {item.name} is {getattr(self, item.name)}; it must be above 0")


class Refused(Exception):
    """A request that gets a status other than 200, and one line for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """A checked request."""

    queries: list[str]
    topk: int = DEFAULT_TOPK
    return_scores: bool = False

    @property
    def hits(self) -> int:
        """The most hits that the answer can have."""
        return len(self.queries) * self.topk


def read_request(body: bytes, limits: ServerLimits) -> RetrieveRequest:
    """Check a request. Raises Refused: 400 for invalid JSON, 422 for a field that is wrong or above a limit."""
    try:
        # the standard library accepts half a surrogate pair, which a model's text can hold; orjson does not
        value = json.loads(body)
    except RecursionError:
        raise Refused(400, "the body is not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(422, f"the body is {_kind(value)}; send an object with the field 'queries'")
    request = RetrieveRequest(_queries(value, limits), _topk(value, limits), _return_scores(value))
    if request.hits > limits.hits:
        asked = f"queries x topk is {len(request.queries)} x {request.topk} = {request.hits}"
        raise Refused(422, f"{asked}, the limit is {limits.hits}; send fewer queries a request or a smaller topk")
    return request


def _queries(value: Mapping[str, object], limits: ServerLimits) -> list[str]:
    queries = value.get("queries")
    if not isinstance(queries, list):
        found = f"is {_kind(queries)}" if "queries" in value else "is missing"
        raise Refused(422, f"field 'queries' {found}; send a list of strings")
    if len(queries) > limits.queries:
        raise Refused(
            422, f"queries: {len(queries)} in one request, the limit is {limits.queries}; send them in several requests"
        )
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise Refused(422, f"queries[{number}] is {_kind(query)}; send a list of strings")
        if len(query) > limits.query_chars:
            raise Refused(
                422, f"queries[{number}] has {len(query)} characters, the limit is {limits.query_chars}; shorten it"
            )
    return queries


def _topk(value: Mapping[str, object], limits: ServerLimits) -> int:
    topk = value.get("topk")
    if topk is None:
        return DEFAULT_TOPK
    if isinstance(topk, (str, float)) and _is_whole(topk):
        topk = int(topk)
    if type(topk) is not int:
        raise Refused(422, f"field 'topk' is {_kind(topk)}; send a whole number or null ({DEFAULT_TOPK})")
    if not 1 <= topk <= limits.topk:
        raise Refused(422, f"topk: {str(topk)[:20]} is out of range; the limits are 1 to {limits.topk}")
    return topk


def _is_whole(number: str | float) -> bool:
    return number.strip().isdecimal() and len(number) < 20 if isinstance(number, str) else float(number).is_integer()


def _return_scores(value: Mapping[str, object]) -> bool:
    return_scores = value.get("return_scores", False)
    if isinstance(return_scores, (str, int)):
        return_scores = BOOLEANS.get(str(return_scores).lower(), return_scores)
    if type(return_scores) is not bool:
        raise Refused(422, f"field 'return_scores' is {_kind(return_scores)}; send true or false")
    return return_scores


def _kind(value: object) -> str:
    """Return a value's JSON type, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
