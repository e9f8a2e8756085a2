"""Tool calls that the model writes, in the dialects that models are trained to write:

- Hermes, Qwen: `<tool_call>{"name": "search", "arguments": {"query": "..."}}</tool_call>`, one or several;
- Qwen3-Coder: `<function=search><parameter=query>...</parameter></function>`, inside <tool_call> or bare;
- Llama 3: the turn is `{"name": ..., "parameters": {...}}`, perhaps after <|python_tag|>; several with ";" between;
- Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]search[ARGS]{...}`, once for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aslfast.prompts.parsing import MARKS

SEARCH = "search"  # the name of our own tool
MODEL = "model:"  # before the name of a role that answers in its place
NO_LIMIT = 1 << 30

_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^<>\s]+)>(.*?)</parameter>", re.DOTALL)
_MISTRAL = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(\{.*)", re.DOTALL)
_END_OF_TURN = re.compile(r"<\|(?:eot_id|eom_id|im_end|end_of_text|endoftext|end)\|>|</s>|<end_of_turn>")
_PYTHON_TAG, _TOOL_CALLS = "<|python_tag|>", "[TOOL_CALLS]"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model wrote. Values of a dialect that has no types are texts."""

    name: str
    arguments: Mapping[str, object]
    top_k: int = 0  # passages of a search that the model did not write; 0: as many as the tool gives

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries of a search, stripped; none where one of them is no text. A list stands under `query_list`."""
        queries = self.arguments.get("query_list", [self.arguments.get("query")])
        queries = _json(queries) if isinstance(queries, str) else queries
        if not isinstance(queries, list) or not all(isinstance(query, str) and query.strip() for query in queries):
            return ()
        return tuple(query.strip() for query in queries)


def answers_search(entry: str) -> bool:
    """Return whether an entry of `tools` is, to the model, the tool `search`."""
    return entry == SEARCH or entry.startswith(MODEL)


def searchers_in(entries: Iterable[str]) -> list[str]:
    """Return the names of the roles that answer searches, as the entries `model:ROLE` of `tools` say, each once."""
    return list(dict.fromkeys(entry.removeprefix(MODEL) for entry in entries if entry.startswith(MODEL)))


def search_call(*queries: str) -> Call:
    """Return the call that searches for these queries."""
    return Call(SEARCH, {"query_list": list(queries)})


def parse_calls(text: str, most: int = 1) -> tuple[Call, ...] | None:
    """Return the calls of a turn without its thinking; none where it makes no call, None where they are malformed.

    Malformed, too, are more than `most` calls and, where a turn may hold several, a tag of ours beside them: what
    follows them is the tool's to say.
    """
    if "<tool_call>" in text or "</tool_call>" in text:
        calls = _tagged_calls(text, several=most > 1)
    elif _TOOL_CALLS in text:
        calls = _mistral_calls(_until_end(text.partition(_TOOL_CALLS)[2]))
    elif "<function=" in text:
        found = list(_FUNCTION.finditer(text))
        calls = _all_of([_function_call(each) for each in found]) if found else None
    else:
        return _bare_calls(text, most)
    return calls if calls and len(calls) <= most else None


def _tagged_calls(text: str, several: bool) -> tuple[Call, ...] | None:
    contents = _TAGGED.findall(text)
    if not len(contents) == text.count("<tool_call>") == text.count("</tool_call>"):
        return None
    if several and any(mark in _TAGGED.sub("", text) for mark in MARKS):
        return None
    return _all_of([_tagged_call(content.strip()) for content in contents])


def _tagged_call(content: str) -> Call | None:
    if function := _FUNCTION.fullmatch(content):
        return _function_call(function)
    return _json_call(_json(content), "arguments")


def _function_call(function: re.Match[str]) -> Call | None:
    """Return the call of a <function=name>, whose content is parameters in tags or (Llama 3.1) a JSON object."""
    name, content = function[1], function[2].strip()
    if content.startswith("{"):
        return _json_call({"name": name, "arguments": _json(content)}, "arguments")
    given = _PARAMETER.findall(content)
    arguments = {key: value.removeprefix("\n").removesuffix("\n") for key, value in given}
    whole = not _PARAMETER.sub("", content).strip() and len(arguments) == len(given)
    return Call(name, arguments) if whole else None


def _mistral_calls(text: str) -> tuple[Call, ...] | None:
    if text.lstrip().startswith("["):
        listed = _json(text)
        return _all_of([_json_call(each, "arguments") for each in listed]) if isinstance(listed, list) else None
    calls = [_MISTRAL.fullmatch(part) for part in text.split(_TOOL_CALLS)]
    return _all_of([each and _json_call({"name": each[1], "arguments": _json(each[2])}, "arguments") for each in calls])


def _bare_calls(text: str, most: int) -> tuple[Call, ...] | None:
    """Return the calls of a turn that is nothing else; without <|python_tag|>, any other JSON is no call."""
    text = _until_end(text)
    otherwise = None if text.startswith(_PYTHON_TAG) else ()
    text, calls = text.removeprefix(_PYTHON_TAG), []
    while text := text.lstrip(" \n\t;"):
        try:
            value, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return otherwise
        calls.append(_json_call(value, "parameters") or _json_call(value, "arguments"))
        text = text[end:]
    found = _all_of(calls) or otherwise
    return found if found is None or len(found) <= most else None


def _json_call(value: object, key: str) -> Call | None:
    """Return the call that an object is, its arguments under this key."""
    name, arguments = (value.get("name"), value.get(key)) if isinstance(value, dict) else (None, None)
    return Call(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _all_of(calls: list[Call | None]) -> tuple[Call, ...] | None:
    """Return the calls; None where there is none, or one of them is malformed."""
    whole = tuple(call for call in calls if call)
    return whole if whole and len(whole) == len(calls) else None


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _until_end(text: str) -> str:
    return _END_OF_TURN.split(text, maxsplit=1)[0].strip()
