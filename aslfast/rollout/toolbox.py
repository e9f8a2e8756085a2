"""All tools that a rollout may call: the search, which gathers calls into batches, and others of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aslfast.prompts.chat_template import Chat
from aslfast.prompts.schemas import Schema
from aslfast.prompts.tool_calls import Call
from aslfast.rollout.model_search import ModelSearch
from aslfast.rollout.search_tool import SEARCH_SCHEMA, Observation
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rollout.tool_runner import ToolRunner


class ToolCaller(Protocol):
    """Answers calls of the tools of these names. schemas: what the prompts do not tell of them."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def schemas(self) -> Sequence[Schema]: ...

    async def call(self, call: Call) -> Observation | None:
        """Return the observation; None where the tool gave none, which is not the caller's fault."""
        ...


@dataclass(frozen=True, slots=True)
class RoleTools:
    """What a role has other tools than the run's by: their names, and how it is told of them.

    searcher: answers its searches, in place of the run's tool.
    """

    names: Sequence[str]
    chat: Chat
    system: str
    searcher: ModelSearch | None = None


@dataclass(frozen=True, eq=False)
class Toolbox:
    """Several tools by their names. search: None where the recipe has none."""

    search: ToolExecutor | None
    runners: Mapping[str, ToolRunner]

    @property
    def names(self) -> Sequence[str]:
        """The names of the tools, the search first."""
        return [schema["name"] for schema in self.schemas]

    @property
    def schemas(self) -> Sequence[Schema]:
        """The schemas of all tools, the search first."""
        return [*([SEARCH_SCHEMA] if self.search else ()), *(runner.tool.schema for runner in self.runners.values())]

    async def call(self, call: Call) -> Observation | None:
        """Return the observation; None where the tool gave none, which is not the caller's fault."""
        if runner := self.runners.get(call.name):
            text = await runner.call(call.arguments)
            return None if text is None else Observation(text)
        assert self.search is not None, call.name
        return await self.search.call(call)
