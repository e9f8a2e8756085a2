"""What a tool is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from aslfast.prompts.schemas import Schema


class ToolError(Exception):
    """What was wrong with a call; the model reads it."""


class ToolFailed(Exception):
    """The tool gave no answer, which is not the model's fault."""


class Tool(Protocol):
    """A tool: a function at an import path is made one, an object with these three is one as it is.

    `call` takes what the model wrote and returns its answer or, if it is async, an awaitable of it: a text, or what
    becomes one as JSON. What it raises comes back to the model, but for ToolFailed and TimeoutError, which end the
    trajectory as failed.
    """

    @property
    def name(self) -> str:
        """The name that the model calls it by."""
        ...

    @property
    def schema(self) -> Schema:
        """Its name, description and parameters, these as a JSON schema of an object."""
        ...

    def call(self, arguments: Mapping[str, object]) -> object:
        """Return the answer."""
        ...
