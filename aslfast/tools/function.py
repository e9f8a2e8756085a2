"""A Python function as a tool: its schema comes from its type hints and its docstring, which also check a call."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from aslfast.errors import UserError
from aslfast.plugins import described
from aslfast.prompts.schemas import Schema
from aslfast.tools.arguments import typed
from aslfast.tools.protocol import ToolError

WANTED = "a tool is a function with a docstring and a type hint for every parameter"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PLAIN = (str, int, float, bool, type(None))
_SECTION = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
_OTHER_SECTION = re.compile(r"^\s*(?:Returns?|Yields?|Raises?|Examples?|Notes?):|^\s*:\w+", re.MULTILINE)
_ENTRY = re.compile(r"^\s*\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.+(?:\n(?!\s*\w+(?:\s*\([^)]*\))?:).+)*)", re.MULTILINE)
_SPHINX = re.compile(r"^\s*:param\s+(?:[^:]*\s)?(\w+):\s*(.+)", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class FunctionTool:
    """A function with what its calls are checked by: a struct with a field for each parameter."""

    schema: Schema
    function: Callable[..., object]
    parameters: type[msgspec.Struct]

    @property
    def name(self) -> str:
        """The function's own."""
        return self.schema["name"]

    def call(self, arguments: Mapping[str, object]) -> object:
        """Return what the function returns, an awaitable if it is async. Raise ToolError for wrong arguments."""
        try:
            given = msgspec.convert(typed(arguments, self.schema), self.parameters, strict=False)
        except msgspec.ValidationError as error:
            raise ToolError(f"{self.name}: {error}") from None
        return self.function(**{name: getattr(given, name) for name in arguments})


def function_tool(function: Callable[..., object], path: str) -> FunctionTool:
    """Return a function as a tool; `path` is what errors call it. Raise UserError."""
    name, documented = function.__name__, inspect.getdoc(function)
    if not documented:
        raise UserError(f"{path} has no docstring; {WANTED}")
    summary, notes = _parts(documented)
    try:
        parameters = _struct(function, notes)
        whole: Any = msgspec.json.schema(parameters)
    except UserError as error:
        raise UserError(f"{path} {error}; {WANTED}") from None
    except Exception as error:
        raise UserError(f"{path}: its signature cannot be a JSON schema ({described(error)}); {WANTED}") from None
    return FunctionTool({"name": name, "description": summary, "parameters": _inlined(whole)}, function, parameters)


def _struct(function: Callable[..., object], notes: Mapping[str, str]) -> type[msgspec.Struct]:
    hints = typing.get_type_hints(function, include_extras=True)
    fields = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _NAMED:
            raise UserError(f"takes {parameter}, which no call can name")
        if parameter.name not in hints:
            raise UserError(f"has no type hint for {parameter.name}")
        fields.append(_field(parameter, hints[parameter.name], notes.get(parameter.name)))
    return msgspec.defstruct(function.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _field(parameter: inspect.Parameter, hint: Any, note: str | None) -> tuple[str, Any] | tuple[str, Any, Any]:
    hint = Annotated[hint, msgspec.Meta(description=note)] if note else hint
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, hint
    if isinstance(parameter.default, _PLAIN):
        return parameter.name, hint, parameter.default
    return parameter.name, hint, msgspec.field(default_factory=lambda: parameter.default)  # the schema shows none


def _inlined(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a struct itself, not by reference, with those of the types that it uses."""
    types = dict(whole["$defs"])
    own = types.pop(whole["$ref"].rpartition("/")[2])
    own = {key: value for key, value in own.items() if key != "title"}
    return {**own, "$defs": types} if types else own


def _parts(documented: str) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of the function, and of its parameters in an `Args:` section or `:param` lines."""
    said, *rest = _SECTION.split(documented, maxsplit=1)
    notes = dict(_SPHINX.findall(documented))
    if rest:
        notes |= dict(_ENTRY.findall(_OTHER_SECTION.split(rest[0], maxsplit=1)[0]))
    summary = _OTHER_SECTION.split(said, maxsplit=1)[0]
    return summary.strip(), {name: " ".join(note.split()) for name, note in notes.items()}
