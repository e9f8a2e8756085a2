"""Text to tokens around what the model samples: prompts and tool observations, by the tokenizer's own chat template.

Prompts hold questions and answers that other roles wrote, observations hold passages: all of it is data. `inert`
breaks every control token and every tag of ours that such text spells, so that it cannot forge a turn, a call or an
answer, whatever the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aslfast.errors import UserError

TAGS = ("think", "tool_call", "tool_response", "tools", "answer", "question", "verdict")
_SENTINEL = "aslfastsentinel"


class Chat:
    """Renders with one tokenizer. `tokenizer` is a Hugging Face tokenizer with a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model or add chat_template.jinja")
        self.tokenizer = tokenizer
        added = [token for token in tokenizer.get_added_vocab() if len(token) > 1 and not token.isspace()]
        tags = [rf"</?\s*{tag}\s*/?>" for tag in TAGS]
        self._control = re.compile("|".join([*map(re.escape, sorted(added, key=len, reverse=True)), *tags]), re.IGNORECASE)
        self._before_observation, self._after_observation = self._observation_frame()

    def inert(self, text: str) -> str:
        """The text with each control token or tag spelled so that it no longer is one (`<answer>` -> `‹answer›`)."""
        while self._control.search(text):
            text = self._control.sub(lambda match: _spelled_out(match[0]), text)
        return text

    def prompt_ids(self, user: str, system: str = "") -> list[int]:
        """The opening of a conversation, up to where the assistant speaks. `user` is made inert here."""
        messages = [{"role": "system", "content": system}] if system else []
        return self._ids(self._render([*messages, {"role": "user", "content": self.inert(user)}]))

    def observation_ids(self, text: str, turn_closed: bool) -> list[int]:
        """A tool's answer, from the end of the assistant's turn to where it speaks again.

        `turn_closed`: the model itself sampled its end-of-turn token, which then is not repeated.
        """
        before = self._before_observation
        eos = self.tokenizer.eos_token or ""
        if turn_closed and eos and before.startswith(eos):
            before = before[len(eos) :]
        return self._ids(before + self.inert(text) + self._after_observation)

    def text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _observation_frame(self) -> tuple[str, str]:
        """What the template puts around a tool message: found by rendering one, so that any template will do."""
        opening = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _SENTINEL}]
        rendered = self._render([*opening, {"role": "tool", "content": _SENTINEL}])
        if rendered.count(_SENTINEL) != 2:  # a template that knows no tool role: the observation is a user's message
            wrapped = f"<tool_response>\n{_SENTINEL}\n</tool_response>"
            rendered = self._render([*opening, {"role": "user", "content": wrapped}])
        _, before, after = rendered.split(_SENTINEL)
        return before, after


def _spelled_out(token: str) -> str:
    replaced = token.replace("<", "‹").replace(">", "›")
    return replaced if replaced != token else f"{token[0]} {token[1:]}"
