"""Text to tokens around what the model samples: prompts and tool observations, by the tokenizer's own chat template.

Prompts hold questions and answers that other roles wrote, observations hold passages: all of it is data. Two walls keep
it so, whatever the tokenizer: `escape_control_tokens` breaks every control token and every tag of ours that such text spells, and a
control token that a tokenizer's normaliser still makes of it is dropped from the token ids.
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
    """Renders with one tokenizer. `tokenizer` is a Hugging Face tokenizer with a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            remedy = "use an instruct model or add chat_template.jinja"
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; {remedy}")
        self.tokenizer = tokenizer
        added = {word: id_ for word, id_ in tokenizer.get_added_vocab().items() if len(word) > 1 and not word.isspace()}
        self._control_ids = frozenset(added.values())
        self._prompts: dict[str, Frame] = {}  # by system message
        self._observation = self._observation_frame()
        literals = [*added, *self._spoken_opening()]
        self._control = _any_of(literals, _TAG)
        before, after = self._observation.before, self._observation.after
        ending = _any_of([word for word in added if not re.fullmatch(_TAG, word)]).search(before)
        self._end_id: int | None = added.get(ending[0]) if ending else None
        self._after_end = self._frame(before[ending.end() :] if ending else before, after)

    def escape_control_tokens(self, text: str) -> str:
        """The text with each control token or tag spelled so that it no longer is one (in other angle brackets)."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text to a tokenizer
        folded = unicodedata.normalize("NFKC", text)  # what a tokenizer may read in full-width letters
        text = folded if self._control.search(folded) else text
        while self._control.search(text):
            text = self._control.sub(lambda match: _spelled_out(match[0]), text)
        return text

    def prompt_ids(self, user: str, system: str = "") -> list[int]:
        """The opening of a conversation, up to where the assistant speaks. `user` is data, `system` is trusted."""
        if system not in self._prompts:
            self._prompts[system] = self._prompt_frame(system)
        return self._filled(self._prompts[system], user)

    def observation_ids(self, text: str, turn_closed: bool) -> list[int]:
        """A tool's answer, from the end of the assistant's turn to where it speaks again.

        `turn_closed`: the model itself sampled the end-of-turn token (`ends_turn`), which then is not repeated.
        """
        return self._filled(self._after_end if turn_closed else self._observation, text)

    def ends_turn(self, token_ids: Sequence[int]) -> bool:
        """Whether sampled tokens end with the template's own end-of-turn token; a model may have other ways to stop."""
        return bool(token_ids) and token_ids[-1] == self._end_id

    def text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _filled(self, frame: Frame, text: str) -> list[int]:
        """The frame's ids around the text's; a control token that is not the frame's own is dropped."""
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
        """What the template puts around the sentinels of the messages; nothing where it refuses such messages."""
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError, KeyError):  # templates refuse a role in each of these ways
            return []
        return text.split(_SENTINEL)

    def _prompt_frame(self, system: str) -> Frame:
        """The system message in its own role, or, where the template has no such role, at the head of the user's."""
        user = {"role": "user", "content": _SENTINEL}
        pieces = self._pieces([{"role": "system", "content": system}, user] if system else [user])
        if len(pieces) != 2 or system.strip() not in pieces[0]:
            pieces = self._pieces([{"role": "user", "content": f"{system}\n\n{_SENTINEL}"}])
        if len(pieces) != 2:
            raise self._unusable("a user message")
        return self._frame(*pieces)

    def _observation_frame(self) -> Frame:
        """What stands around a tool message, or, where the template has no such role, around a user message instead."""
        opening = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _SENTINEL}]
        pieces = self._pieces([*opening, {"role": "tool", "content": _SENTINEL}])
        if len(pieces) != 3:
            wrapped = f"<tool_response>\n{_SENTINEL}\n</tool_response>"
            pieces = self._pieces([*opening, {"role": "user", "content": wrapped}])
        if len(pieces) != 3:
            raise self._unusable("a second user message")
        return self._frame(*pieces[1:])

    def _spoken_opening(self) -> list[str]:
        """The words that give the assistant the floor ("[/INST]"), where no control token does it."""
        prompt = self._prompt_frame("")
        return [prompt.after.strip()] if prompt.after.strip() and not prompt.n_after else []

    def _unusable(self, what: str) -> UserError:
        place = self.tokenizer.name_or_path
        return UserError(f"{place}: its chat template cannot render {what}; use an instruct model")


def _any_of(literals: Sequence[str], *patterns: str) -> re.Pattern[str]:
    longest_first = map(re.escape, sorted(literals, key=len, reverse=True))
    return re.compile("|".join([*longest_first, *patterns]) or r"(?!)", re.IGNORECASE)


def _spelled_out(token: str) -> str:
    replaced = token.translate({ord("<"): "\u2039", ord(">"): "\u203a"})
    return replaced if replaced != token else f"{token[0]} {token[1:]}"
