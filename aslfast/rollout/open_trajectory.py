"""A trajectory in progress: its bounds, what it starts from, and the tokens that it gathers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from aslfast.config.roles import RoleConfig
from aslfast.core import Kind, Turn
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import STOP_TEXTS
from aslfast.sampler.protocol import Sample


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one trajectory, in turns and tokens."""

    max_turns: int = 5
    max_new_tokens: int = 512  # a turn
    max_context: int = 4096  # the whole trajectory
    max_calls: int = 1  # a turn

    def stop_texts(self, output: Sequence[str]) -> tuple[str, ...]:
        """Return the texts that end a turn of a role with these tags; a call does where it is the only one."""
        texts = dict.fromkeys([*STOP_TEXTS, f"</{output[-1]}>"])
        return tuple(text for text in texts if text != "</tool_call>" or self.max_calls == 1)

    def of_role(self, role: RoleConfig) -> Limits:
        """Return the limits of a role that has some of its own."""
        turns, tokens = role.max_turns or self.max_turns, role.max_new_tokens or self.max_new_tokens
        return replace(self, max_turns=turns, max_new_tokens=tokens)


@dataclass(frozen=True, slots=True)
class Start:
    """What a trajectory starts from: tokens, which of them are learnt from, log-probs, and turns."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, episode: OpenTrajectory) -> Start:
        """Return what an episode holds so far."""
        return cls(tuple(episode.ids), tuple(episode.mask), tuple(episode.logprobs), tuple(episode.turns))


@dataclass(slots=True)
class OpenTrajectory:
    """A trajectory in progress. The seed of each turn is derived from `name`; `session` is unique in the process.

    chat, limits, temperature: of the role that plays it.
    """

    name: str
    session: str
    adapter: str | None
    role: RoleConfig
    chat: Chat
    limits: Limits
    temperature: float
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    searched_tokens: int = 0

    @property
    def has_room(self) -> bool:
        """Whether the context has room for another turn."""
        return len(self.ids) + self.limits.max_new_tokens <= self.limits.max_context

    def append(self, kind: Kind, ids: Sequence[int], text: str, passages: Iterable[str] = ()) -> None:
        """Append tokens that the model did not sample. passages: ids of those that they show; each counts once."""
        shown = tuple(dict.fromkeys(passages))
        turn = Turn(kind, len(self.ids), len(self.ids) + len(ids), text, passages=shown)
        self._extend(turn, ids, 0, [0.0] * len(ids))

    def append_sampled(self, sample: Sample, text: str, in_thinking: bool) -> Turn:
        """Append a turn that the model sampled, and return it."""
        ids = sample.token_ids
        turn = Turn("sampled", len(self.ids), len(self.ids) + len(ids), text, sample.cached_tokens, in_thinking)
        self._extend(turn, ids, 1, sample.logprobs)
        return turn

    def begin(self, start: Start) -> None:
        """Begin with tokens of before."""
        self.ids += start.token_ids
        self.mask += start.loss_mask
        self.logprobs += start.logprobs
        self.turns += start.turns

    def _extend(self, turn: Turn, ids: Sequence[int], in_loss: int, logprobs: Sequence[float]) -> None:
        self.turns.append(turn)
        self.ids += ids
        self.mask += [in_loss] * len(ids)
        self.logprobs += logprobs
