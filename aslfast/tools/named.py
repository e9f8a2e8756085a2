"""The tools that a recipe names: `search`, `module:function`, `mcp:COMMAND`, `mcp:http://...` or `model:ROLE`."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from aslfast import plugins
from aslfast.errors import UserError
from aslfast.prompts.schemas import Schema
from aslfast.prompts.tool_calls import SEARCH, answers_search
from aslfast.tools import function
from aslfast.tools.protocol import Tool

MCP = "mcp:"
NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}")
OWN_TOOL = f"{function.WANTED}, or an object with name, schema and call: see aslfast.tools.Tool"


def load_tools(names: Sequence[str]) -> list[Tool]:
    """Return the tools besides the search, each loaded once in a process. Raise UserError."""
    tools: list[Tool] = []
    taken = {SEARCH: SEARCH} if any(map(answers_search, names)) else {}
    for named in dict.fromkeys(names):
        for tool in () if answers_search(named) else _loaded(named):
            if tool.name in taken:
                raise UserError(f"tools: {taken[tool.name]} and {named} both have a tool {tool.name!r}; rename one")
            taken[tool.name] = named
            tools.append(tool)
    return tools


def files_of(names: Sequence[str]) -> dict[str, str]:
    """Return the files that the tools' code is in, as far as they are here, by what errors call them."""
    files: dict[str, str] = {}
    for named in names:
        if named.startswith(MCP):
            words = shlex.split(named.removeprefix(MCP))[1:]
            files |= {f"tools: {named!r}: {word}": word for word in words if Path(word).is_file()}
        elif not answers_search(named):
            files[f"tools: {named}"] = plugins.source_file(named, "tools")
    return files


@cache
def _loaded(named: str) -> tuple[Tool, ...]:
    if named.startswith(MCP):
        from aslfast.tools.mcp_server import open_server  # its client is an extra

        tools = open_server(named.removeprefix(MCP)).tools()
    else:
        tools = (_own_tool(named),)
    for tool in tools:
        _check(tool.name, tool.schema, named)
    return tools


def _own_tool(path: str) -> Tool:
    found = plugins.load_object(path, "tools")
    if inspect.isroutine(found):
        return function.function_tool(found, f"tools: {path}")
    if isinstance(found, type) or not all(hasattr(found, part) for part in ("name", "schema", "call")):
        raise UserError(f"tools: {path} is a {type(found).__name__}; {OWN_TOOL}")
    return found


def _check(name: Any, schema: Schema | Any, named: str) -> None:
    """Raise UserError for a name that no model could write, or a schema that a template could not show."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"tools: {named}: a tool is called {name!r:.80}; use letters, digits, _ - and ., at most 64")
    try:
        sound = schema["name"] == name and isinstance(schema["description"], str)
        sound = sound and isinstance(schema["parameters"]["properties"], dict)
    except (KeyError, TypeError):
        sound = False
    if not sound:
        what = "its name, its description and, as parameters, the JSON schema of an object with properties"
        raise UserError(f"tools: {named}: the schema of {name} lacks a part; it has {what}")
