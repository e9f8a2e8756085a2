"""The traffic of a policy that searches: groups of samples of one question, which read the same passages.

An untrained model never calls the tool, so what is played comes from recorded demonstrations: the prompt, the query
and the turns' lengths. The passages are what the query finds in an index.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aslfast.index.bm25 import BM25Index
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import Call
from aslfast.rollout.search_tool import SearchTool
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

QUERY = re.compile(r'"query": "([^"]*)"')


@dataclass(frozen=True, slots=True)
class Turn:
    """A context and how many tokens to sample."""

    token_ids: tuple[int, ...]
    n_new: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of every sample of one group: the prompt, then one more observation a turn.

    A context leaves out the model's turns before it, so that what is new in it is the observation alone, as it is for
    a session that goes on from its own tokens. With recorded turns, which no session here has sampled, a sampler that
    shares nothing would have more to run than in a real rollout.
    """

    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Recordings:
    """Policy trajectories (of `aslfast demos`, or of a run) and the tool that answers their queries."""

    file: Path
    tool: SearchTool
    chat: Chat

    def conversations(self, n_questions: int, n_searches: int, most_new: int) -> list[Conversation]:
        """Return those of the first questions that search: each with its recorded query, then with its question.

        most_new: of the tokens of a turn.
        """
        rows = pd.read_parquet(self.file, columns=["role", "question", "conversation", "token_ids", "loss_mask"])
        asked: dict[str, dict[str, Any]] = {}
        for row in rows.to_dict("records"):
            if row["role"] == "policy" and QUERY.search(row["conversation"]):
                asked.setdefault(row["question"], row)
        return [self._conversation(row, n_searches, most_new) for row in [*asked.values()][:n_questions]]

    def _conversation(self, row: dict[str, Any], n_searches: int, most_new: int) -> Conversation:
        mask = [int(value) for value in row["loss_mask"]]
        context = [int(token) for token in row["token_ids"][: mask.index(1)]]
        n_call = mask.index(0, len(context)) - len(context)
        queries = [*QUERY.findall(row["conversation"])[:1], *[row["question"]] * n_searches][:n_searches]
        turns: list[Turn] = []
        for observation in self.tool.answer([Call("search", {"query": query}) for query in queries]):
            turns.append(Turn(tuple(context), min(n_call, most_new)))
            context += self.chat.observation_ids(observation.text, turn_closed=False)
        return Conversation((*turns, Turn(tuple(context), min(sum(mask) - n_call, most_new))))


def open_recordings(file: Path, index: Path, tokenizer: Any, top_k: int) -> Recordings:
    """Open the recorded demonstrations beside the index of their passages."""
    return Recordings(file, SearchTool(BM25Index.open(index), top_k), Chat(tokenizer))


def sampled_tokens(conversations: Sequence[Conversation], group_size: int) -> int:
    """Return how many tokens `play` samples."""
    return group_size * sum(turn.n_new for conversation in conversations for turn in conversation.turns)


def play(
    sampler: Sampler, conversations: Sequence[Conversation], group_size: int, temperature: float = 1.0
) -> list[list[Sample]]:
    """Play every group, all at once, each sample's turns one after the other. Return the samples by session."""

    async def session(name: str, conversation: Conversation, seed: int) -> list[Sample]:
        samples = [
            await sampler.generate(
                SampleRequest(turn.token_ids, name, "policy", turn.n_new, temperature, seed=seed + n)
            )
            for n, turn in enumerate(conversation.turns)
        ]
        sampler.release(name)
        assert [len(sample.token_ids) for sample in samples] == [turn.n_new for turn in conversation.turns]
        return samples

    async def everything() -> list[list[Sample]]:
        return await asyncio.gather(
            *(
                session(f"s{q}-{i}", conversation, 1000 * q + 10 * i)
                for q, conversation in enumerate(conversations)
                for i in range(group_size)
            )
        )

    return asyncio.run(everything())
