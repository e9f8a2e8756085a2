"""Prompts and tool observations as token ids, by the tokenizer's own chat template.

Prompts hold questions and answers that other roles wrote, observations hold passages: all of it is data. Two steps keep
it so, whatever the tokenizer: `escape_control_tokens` breaks every control token and every tag of ours that such text
spells, and a control token that a tokenizer's normaliser still makes of it is dropped from the token ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aslfast.prompts.parsing import TAGS
from aslfast.prompts.rendering import SENTINEL, Rendering, Result
from aslfast.prompts.schemas import Schema, escaped
from aslfast.prompts.tool_calls import SEARCH

_TAG = rf"<[\s/]*(?:{'|'.join(TAGS)})\b[^<>]*>"
_SAID = ("</tool_call>", "x")  # what may stand before an observation whose turn the model did not close


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template puts before and after a piece of text, and how many control tokens each side holds."""

    before: str
    after: str
    n_before: int
    n_after: int

    @property
    def opens_thinking(self) -> bool:
        """Whether the turn that follows is inside a <think> block from its first token."""
        return self.after.rstrip().endswith("<think>")


class Chat:
    """The chat template of one Hugging Face tokenizer, as token ids. Raise UserError where it has none.

    date: ISO date that the template is told, if it asks for one; empty: today. tools: those that every prompt tells of,
    besides what the system message says.
    """

    def __init__(self, tokenizer: Any, date: str = "", tools: Sequence[Schema] = ()) -> None:
        self.tokenizer, self.rendering = tokenizer, Rendering(tokenizer, date)
        added = {word: id_ for word, id_ in tokenizer.get_added_vocab().items() if len(word) > 1 and not word.isspace()}
        self._control_ids = frozenset(added.values())
        self._prompts: dict[str, Frame] = {}  # by system message
        self._messages: dict[bool, Frame] = {}  # of a user's next one, by whether the turn before is closed
        self._observation = self._frame(self.rendering.observation(SENTINEL))
        self._control = _any_of([*added, *self._text_opening()], _TAG)
        ending = _any_of([word for word in added if not re.fullmatch(_TAG, word)]).search(self._observation.before)
        self._end, self._end_at = (ending[0], ending.end()) if ending else ("", 0)
        self._end_id: int | None = added.get(self._end)
        self._after_end = self._frame(self.rendering.observation(SENTINEL)[self._end_at :])
        opening = self._observation.before + SENTINEL
        self._said = next((said for said in _SAID if self._ids_after(said, opening) is not None), "")
        self._offer(tools)

    def _offer(self, tools: Sequence[Schema]) -> None:
        self.rendering.tools = [escaped(schema, self.escape_control_tokens) for schema in tools]
        self._prompts.clear()

    def escape_control_tokens(self, text: str) -> str:
        """Return the text with each control token and each tag broken: spelled with other angle brackets."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # a tokenizer refuses half a surrogate pair
        folded = unicodedata.normalize("NFKC", text)  # a tokenizer may fold full-width letters
        text = folded if self._control.search(folded) else text
        while self._control.search(text):
            text = self._control.sub(lambda match: _broken(match[0]), text)
        return text

    def prompt_ids(self, user: str, system: str = "") -> list[int]:
        """Return the opening of a conversation, up to the assistant's turn. `user` is data, `system` is trusted."""
        ids = self._ids(self.rendering.prompt(self.escape_control_tokens(user), system))
        return self._without_forged(ids, self._prompt_frame(system))

    def observation_ids(self, text: str, turn_closed: bool) -> list[int]:
        """Return what a search found, from the end of the assistant's turn to where it speaks again.

        turn_closed: the model itself sampled the end-of-turn token (`ends_turn`), which then is not repeated. The ids
        are those that the text has after the turn: some tokenizers open a text of its own with a space ("\u2581").
        """
        return self.results_ids([(SEARCH, text)], turn_closed)

    def results_ids(self, results: Sequence[Result], turn_closed: bool) -> list[int]:
        """Return the answers to the calls of one turn, in order, as `observation_ids` does."""
        results = [(name, self.escape_control_tokens(text)) for name, text in results]
        frame, said = (self._after_end, self._end) if turn_closed else (self._observation, self._said)
        ids = self._fragment_ids(self.rendering.observations(results), said, turn_closed)
        if len(results) == 1:
            return self._without_forged(ids, frame)
        blank = self._fragment_ids(
            self.rendering.observations([(name, SENTINEL) for name, _ in results]), said, turn_closed
        )
        if self._n_control(ids) == self._n_control(blank):
            return ids
        return self._pieced_ids(results, said, turn_closed)

    def message_ids(self, text: str, turn_closed: bool) -> list[int]:
        """Return a user's next message, from the end of the assistant's turn to where it speaks again. `text` is data.

        Raise UserError where the template shows no second message of a user.
        """
        start, said = (self._end_at, self._end) if turn_closed else (0, self._said)
        if turn_closed not in self._messages:
            self._messages[turn_closed] = self._frame(self.rendering.message(SENTINEL)[start:])
        shown = self.rendering.message(self.escape_control_tokens(text))
        return self._without_forged(self._fragment_ids(shown, said, turn_closed), self._messages[turn_closed])

    def said_ids(self, text: str) -> list[int]:
        """Return a text as what the assistant said in a turn that `message_ids` closes. It is data."""
        ids = self._ids(self.escape_control_tokens(text))
        return [id_ for id_ in ids if id_ not in self._control_ids]

    def _fragment_ids(self, fragment: str, said: str, turn_closed: bool) -> list[int]:
        fragment = fragment[self._end_at :] if turn_closed else fragment
        ids = self._ids_after(said, fragment)
        return self._ids(fragment) if ids is None else ids

    def _pieced_ids(self, results: Sequence[Result], said: str, turn_closed: bool) -> list[int]:
        """Return the ids of several results of which the tokenizer's normaliser makes control tokens: encoded piece by
        piece, the results without them."""
        opening, *rest = self.rendering.observations([(name, SENTINEL) for name, _ in results]).split(SENTINEL)
        ids = self._fragment_ids(opening, said, turn_closed)
        for (name, text), after in zip(results, rest, strict=True):
            before, _, end = self.rendering.observation(SENTINEL, name).partition(SENTINEL)
            shown = self.rendering.observation(text, name)
            shown = shown[len(before) : len(shown) - len(end)]
            ids += [id_ for id_ in self._ids(shown) if id_ not in self._control_ids] + self._ids(after)
        return ids

    def _n_control(self, ids: Sequence[int]) -> int:
        return sum(id_ in self._control_ids for id_ in ids)

    def opens_thinking(self, first_turn: bool) -> bool:
        """Return whether the template opens <think> for the assistant: in the prompt, or after an observation."""
        return (self._prompt_frame("") if first_turn else self._observation).opens_thinking

    def ends_turn(self, token_ids: Sequence[int]) -> bool:
        """Return whether sampled tokens end with the template's end-of-turn token; a model may stop in other ways."""
        return bool(token_ids) and token_ids[-1] == self._end_id

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens included."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _without_forged(self, ids: list[int], frame: Frame) -> list[int]:
        """Return the ids without any control token that is not the frame's own."""
        control = [i for i, id_ in enumerate(ids) if id_ in self._control_ids]
        forged = set(control[frame.n_before : len(control) - frame.n_after])
        return [id_ for i, id_ in enumerate(ids) if i not in forged] if forged else ids

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _ids_after(self, said: str, text: str) -> list[int] | None:
        """Return a text's ids where it follows another; None where a token would span both."""
        first, whole = self._ids(said), self._ids(said + text)
        return whole[len(first) :] if whole[: len(first)] == first else None

    def _frame(self, text: str) -> Frame:
        before, _, after = text.partition(SENTINEL)
        return Frame(before, after, self._n_control(self._ids(before)), self._n_control(self._ids(after)))

    def _prompt_frame(self, system: str) -> Frame:
        if system not in self._prompts:
            self._prompts[system] = self._frame(self.rendering.prompt(SENTINEL, system))
        return self._prompts[system]

    def _text_opening(self) -> list[str]:
        """Return the words that open the assistant's turn ("[/INST]") where no control token does."""
        prompt = self._prompt_frame("")
        return [prompt.after.strip()] if prompt.after.strip() and not prompt.n_after else []


def _any_of(literals: Sequence[str], *patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds any of the literals, the longest first, or of the patterns; of none, nothing."""
    longest_first = map(re.escape, sorted(literals, key=len, reverse=True))
    return re.compile("|".join([*longest_first, *patterns]) or r"(?!)", re.IGNORECASE)


def _broken(token: str) -> str:
    """Return a control token or tag in other angle brackets or, where it has none, with a space in it."""
    replaced = token.translate({ord("<"): "\u2039", ord(">"): "\u203a"})
    return replaced if replaced != token else f"{token[0]} {token[1:]}"
