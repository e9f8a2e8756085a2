"""The texts that a tokenizer's own chat template makes of a question and of a tool's answer.

Every text goes through the template itself, which may trim it or write it as JSON: what a model reads here is what it
was trained to read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from aslfast.errors import UserError
from aslfast.prompts.tool_calls import SEARCH

SENTINEL = "aslfastsentinel"  # stands for a text, to find its place in a rendered conversation
_WRAPPED = "<tool_response>\n{}\n</tool_response>"  # a tool's answer in a user message

Message = dict[str, str]


class Rendering:
    """The chat template of one Hugging Face tokenizer. Raise UserError where it has none, or one without a user.

    date: ISO date that the template is told (`strftime_now`); empty: today.
    """

    def __init__(self, tokenizer: Any, date: str = "") -> None:
        if not getattr(tokenizer, "chat_template", None):
            what_to_do = "use an instruct model or add chat_template.jinja"
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; {what_to_do}")
        self._tokenizer = tokenizer
        # what the template is given besides the messages
        self.told: dict[str, Any] = {"strftime_now": datetime.fromisoformat(date).strftime} if date else {}
        self._system_roles: dict[str, bool] = {}  # by system message: whether it has a role of its own
        self._tool_role = self._count([*_turns(SENTINEL), _tool_message(SENTINEL)]) == 2
        if not self._tool_role and self._count([*_turns(SENTINEL), _user(_WRAPPED.format(SENTINEL))]) != 2:
            raise self._unusable("it shows neither a tool message nor a second user message")

    def prompt(self, user: str, system: str = "") -> str:
        """Return the opening of a conversation up to the assistant's turn. A template without a system role, or that
        refuses or drops such a message, has it at the head of the user's."""
        if system not in self._system_roles:
            self._system_roles[system] = self._has_system_role(system)
        if system and self._system_roles[system]:
            return self._text([{"role": "system", "content": system}, _user(user)])
        return self._text([_user(f"{system}\n\n{user}" if system else user)])

    def observation(self, text: str) -> str:
        """Return a tool's answer, from the end of the assistant's turn to where it speaks again: a tool message or,
        where the template has no such role, a user message."""
        message = _tool_message(text) if self._tool_role else _user(_WRAPPED.format(text))
        return self._text([*_turns(SENTINEL), message]).partition(SENTINEL)[2]

    def _has_system_role(self, system: str) -> bool:
        shown = self._tried([{"role": "system", "content": system}, _user(SENTINEL)])
        if shown.count(SENTINEL) == 1 and system.strip() in shown.partition(SENTINEL)[0]:
            return True
        if self._count([_user(f"{system}\n\n{SENTINEL}")]) != 1:
            raise self._unusable("it does not show a user message")
        return False

    def _count(self, messages: list[Message]) -> int:
        return self._tried(messages).count(SENTINEL)

    def _tried(self, messages: list[Message]) -> str:
        """Return the messages as text; nothing where the template refuses them, each in a way of its own."""
        try:
            return self._text(messages)
        except UserError:
            return ""

    def _text(self, messages: list[Message]) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.told
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise self._unusable(" ".join(str(error).split())[:200]) from error

    def _unusable(self, why: str) -> UserError:
        place = self._tokenizer.name_or_path
        return UserError(f"{place}: its chat template cannot be used ({why}); use an instruct model")


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _turns(said: str) -> list[Message]:
    """Return a conversation up to the end of the assistant's turn."""
    return [_user("q"), {"role": "assistant", "content": said}]


def _tool_message(text: str) -> Message:
    return {"role": "tool", "name": SEARCH, "content": text}
