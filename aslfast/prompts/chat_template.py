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

from jinja2 import TemplateError

from aslfast.errors import UserError
from aslfast.prompts.parsing import TAGS

_SENTINEL = "aslfastsentinel"
_TAG = rf"<[\s/]*(?:{'|'.join(TAGS)})\b[^<>]*>"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template puts before and after a piece of text, and how many control tokens each side holds."""

    before: str
    after: str
    n_before: int
    n_after: int


class Chat:
    """The chat template of one Hugging Face tokenizer. Raise UserError where it has none."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            what_to_do = "use an instruct model or add chat_template.jinja"
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; {what_to_do}")
        self.tokenizer = tokenizer
        added = {word: id_ for word, id_ in tokenizer.get_added_vocab().items() if len(word) > 1 and not word.isspace()}
        self._control_ids = frozenset(added.values())
        self._prompts: dict[str, Frame] = {}  # by system message
        self._observation = self._observation_frame()
        literals = [*added, *self._text_opening()]
        self._control = _any_of(literals, _TAG)
        before, after = self._observation.before, self._observation.after
        ending = _any_of([word for word in added if not re.fullmatch(_TAG, word)]).search(before)
        self._end_id: int | None = added.get(ending[0]) if ending else None
        self._after_end = self._frame(before[ending.end() :] if ending else before, after)

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
        if system not in self._prompts:
            self._prompts[system] = self._prompt_frame(system)
        return self._filled(self._prompts[system], user)

    def observation_ids(self, text: str, turn_closed: bool) -> list[int]:
        """Return a tool's answer, from the end of the assistant's turn to where it speaks again.

        turn_closed: the model itself sampled the end-of-turn token (`ends_turn`), which then is not repeated.
        """
        return self._filled(self._after_end if turn_closed else self._observation, text)

    def ends_turn(self, token_ids: Sequence[int]) -> bool:
        """Return whether sampled tokens end with the template's end-of-turn token; a model may stop in other ways."""
        return bool(token_ids) and token_ids[-1] == self._end_id

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens included."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _filled(self, frame: Frame, text: str) -> list[int]:
        """Return the frame's ids around the text's, without any control token that is not the frame's own."""
        ids = self._ids(frame.before + self.escape_control_tokens(text) + frame.after)
        control = [i for i, id_ in enumerate(ids) if id_ in self._control_ids]
        forged = set(control[frame.n_before : len(control) - frame.n_after])
        return [id_ for i, id_ in enumerate(ids) if i not in forged] if forged else ids

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _frame(self, before: str, after: str) -> Frame:
        n_before, n_after = (sum(id_ in self._control_ids for id_ in self._ids(text)) for text in (before, after))
        return Frame(before, after, n_before, n_after)

    def _pieces(self, messages: list[dict[str, str]]) -> list[str]:
        """Return what the template puts around the messages' sentinels; nothing where it refuses such messages."""
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError, KeyError):  # templates refuse a role in each of these ways
            return []
        return text.split(_SENTINEL)

    def _prompt_frame(self, system: str) -> Frame:
        """Return the frame of a user message, the system message before it or, without such a role, at its head."""
        user = {"role": "user", "content": _SENTINEL}
        pieces = self._pieces([{"role": "system", "content": system}, user] if system else [user])
        if len(pieces) != 2 or system.strip() not in pieces[0]:
            pieces = self._pieces([{"role": "user", "content": f"{system}\n\n{_SENTINEL}"}])
        if len(pieces) != 2:
            raise self._unusable("a user message")
        return self._frame(*pieces)

    def _observation_frame(self) -> Frame:
        """Return the frame of a tool message or, where the template has no such role, of a user message."""
        opening = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _SENTINEL}]
        pieces = self._pieces([*opening, {"role": "tool", "content": _SENTINEL}])
        if len(pieces) != 3:
            wrapped = f"<tool_response>\n{_SENTINEL}\n</tool_response>"
            pieces = self._pieces([*opening, {"role": "user", "content": wrapped}])
        if len(pieces) != 3:
            raise self._unusable("a second user message")
        return self._frame(*pieces[1:])

    def _text_opening(self) -> list[str]:
        """Return the words that open the assistant's turn ("[/INST]") where no control token does."""
        prompt = self._prompt_frame("")
        return [prompt.after.strip()] if prompt.after.strip() and not prompt.n_after else []

    def _unusable(self, what: str) -> UserError:
        place = self.tokenizer.name_or_path
        return UserError(f"{place}: its chat template cannot render {what}; use an instruct model")


def _any_of(literals: Sequence[str], *patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds any of the literals, the longest first, or of the patterns; of none, nothing."""
    longest_first = map(re.escape, sorted(literals, key=len, reverse=True))
    return re.compile("|".join([*longest_first, *patterns]) or r"(?!)", re.IGNORECASE)


def _broken(token: str) -> str:
    """Return a control token or tag in other angle brackets or, where it has none, with a space in it."""
    replaced = token.translate({ord("<"): "\u2039", ord(">"): "\u203a"})
    return replaced if replaced != token else f"{token[0]} {token[1:]}"
