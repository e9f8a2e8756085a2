"""A training example of the tiny base: token ids with a weight for each token's loss, and how one is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aslfast.core import Task
from aslfast.prompts.chat_template import Chat


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and the weight of each token's loss (0: prompt and passage tokens)."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


class ExampleWriter:
    """Collects the spans of one demonstration: the token stream that a rollout makes."""

    def __init__(self, chat: Chat, task: Task) -> None:
        self.chat = chat
        self.ids: list[int] = chat.prompt_ids(task.prompt)
        self.weights: list[float] = [0.0] * len(self.ids)

    def say(self, text: str, weight: float = 1.0) -> None:
        """Append text of the assistant, with the weight of its loss."""
        ids = token_ids(self.chat, text)
        self.ids += ids
        self.weights += [weight] * len(ids)

    def observe(self, text: str) -> None:
        """Append a tool's answer, which carries no loss."""
        ids = self.chat.observation_ids(text, turn_closed=False)
        self.ids += ids
        self.weights += [0.0] * len(ids)

    def example(self) -> Example:
        """Return what was written."""
        return Example(tuple(self.ids), tuple(self.weights))


def example_of(chat: Chat, spans: Iterable[tuple[str, float]]) -> Example:
    """Return an example of spans of text with their weights, without a conversation around them."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in spans:
        part = token_ids(chat, text)
        ids += part
        weights += [weight] * len(part)
    return Example(tuple(ids), tuple(weights))


def token_ids(chat: Chat, text: str) -> list[int]:
    """Return the token ids of a piece of text."""
    return chat.tokenizer(text, add_special_tokens=False)["input_ids"]
