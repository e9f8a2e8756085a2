"""What a sampler is: tokens in, tokens and their log-probs out, for a named adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "eos", "length", "abort"]


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One turn to sample. `token_ids` is the whole context so far; a session's contexts extend one another."""

    token_ids: tuple[int, ...]
    session: str
    adapter: str | None  # None: the base itself
    max_new_tokens: int
    temperature: float = 1.0  # 0.0: greedy, log-probs at temperature 1
    stop: tuple[str, ...] = ()  # texts that end the turn, kept in the output
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.token_ids or self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(f"session {self.session}: needs tokens, max_new_tokens >= 1 and temperature >= 0")


@dataclass(frozen=True, slots=True)
class Sample:
    """The sampled tokens, and each one's log-prob under the temperature-scaled distribution (float32, full vocabulary).

    finish: "stop" and "eos" keep the text or token that ended the turn; "length" is max_new_tokens or a full context;
    "abort" was asked for.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason
    cached_tokens: int  # context tokens whose KV was reused


class Sampler(Protocol):
    """A base and its adapters, served to many sessions at once."""

    def start(self) -> None:
        """Start what runs in other processes, unless it runs. Raise UserError where that cannot be."""
        ...

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn. Raise ValueError where the session has a running request.

        Raise UserError for an adapter that is not loaded (never the base in its place), a context without room.
        """
        ...

    def release(self, session: str) -> None:
        """Forget a session and free its KV. Unknown sessions are ignored."""
        ...

    def abort(self, session: str) -> None:
        """End a session's running request: it returns what it has with finish="abort"."""
        ...

    def flush(self) -> None:
        """Serve the adapters as they are now, without keys and values of older weights: after each optimizer step."""
        ...

    def close(self) -> None:
        """Free what the sampler holds; it is not used again."""
        ...


class Scorer(Protocol):
    """A sampler with a copy of the adapters' weights, which can be compared with the trainer's."""

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        """Return the log-probs of all tokens but the first [tokens - 1], at temperature 1."""
        ...

    def version(self, role: str) -> int:
        """Return how often the role's adapter was pushed after the first time."""
        ...
