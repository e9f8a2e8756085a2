"""The model as its own search engine: a role answers searches from what it knows (SSRL, arXiv 2508.10874; ZeroSearch,
arXiv 2505.04588). To the role that asks, it is the tool `search`.

We differ: SSRL's policy writes its passages in its own turn; here another act does, with a prompt of its own, and the
one that asks reads it as it reads any observation: as data, not learnt from.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aslfast.prompts.parsing import parse_output, without_thinking
from aslfast.prompts.templates import fill, one_line
from aslfast.prompts.tool_calls import Call
from aslfast.rollout.search_tool import NOTHING_FOUND, Observation, queries_of

Say = Callable[[str, str], Awaitable[str]]  # (what the role is asked, the query) -> its turn, thinking included


@dataclass(frozen=True, slots=True)
class ModelSearch:
    """Answers a call with one act of the role for each query. output: the role's tags; prompt: with the gap {query}."""

    role: str
    prompt: str
    output: Sequence[str]
    max_passage_chars: int

    async def answer(self, call: Call, say: Say) -> Observation:
        """Return what the role says to the queries of a call, equal texts once; it has no ids to give."""
        queries = dict.fromkeys(queries_of(call))
        said = await asyncio.gather(*(say(fill(self.prompt, query=one_line(query)), query) for query in queries))
        texts = dict.fromkeys(map(self.read, said))
        return Observation("\n".join(text for text in texts if text) or NOTHING_FOUND)

    def read(self, said: str) -> str:
        """Return a turn's output; where it has none, all that it says outside its thinking, without the role's tags."""
        _, output, _ = parse_output(self.output, said)
        text = re.sub(rf"</?(?:{'|'.join(map(re.escape, self.output))})>", "", without_thinking(said))
        return (text if output is None else output).strip()[: self.max_passage_chars]
