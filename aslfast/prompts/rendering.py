"""The texts that a tokenizer's own chat template makes of a question and of a tool's answer.

Every text goes through the template itself, which may trim it or write it as JSON: what a model reads here is what it
was trained to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from aslfast.errors import UserError
from aslfast.prompts.schemas import Schema, as_functions, described, words_of
from aslfast.prompts.tool_calls import SEARCH

SENTINEL = "aslfastsentinel"  # stands for a text, to find its place in a rendered conversation
_WRAPPED = "<tool_response>\n{}\n</tool_response>"  # a tool's answer in a user message

Message = dict[str, str]
Result = tuple[str, str]  # a tool's name and what it answered


class Rendering:
    """The chat template of one Hugging Face tokenizer. Raise UserError where it has none, or one without a user.

    date: ISO date that the template is told (`strftime_now`); empty: today. `tools` are what a prompt tells of; none
    where the prompt's own words do.
    """

    def __init__(self, tokenizer: Any, date: str = "") -> None:
        if not getattr(tokenizer, "chat_template", None):
            what_to_do = "use an instruct model or add chat_template.jinja"
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; {what_to_do}")
        self._tokenizer = tokenizer
        # what the template is given besides the messages
        self.told: dict[str, Any] = {"strftime_now": datetime.fromisoformat(date).strftime} if date else {}
        self.tools: Sequence[Schema] = ()
        self._shown: dict[str, bool] = {}  # by system message: whether the template tells of the tools
        self._system_roles: dict[str, bool] = {}  # by system message: whether it has a role of its own
        self._tool_role = self._count([*_turns(SENTINEL), _tool_message(SENTINEL)]) == 2
        if not self._tool_role and self._count([*_turns(SENTINEL), _user(_WRAPPED.format(SENTINEL))]) != 2:
            raise self._unusable("it shows neither a tool message nor a second user message")

    def prompt(self, user: str, system: str = "") -> str:
        """Return the opening of a conversation up to the assistant's turn. A template without a system role, or that
        refuses or drops such a message, has it at the head of the user's. Tools that it does not show end the system
        message."""
        if self.tools and system not in self._shown:
            self._shown[system] = self._shows_tools(system)
        if not self.tools or self._shown[system]:
            return self._text(self._opening(user, system), self.tools)
        return self._text(self._opening(user, f"{system}\n\n{described(self.tools)}".strip()))

    def _shows_tools(self, system: str) -> bool:
        """Return whether the template itself tells of every tool, with all else that it shows without."""
        opening = self._opening(SENTINEL, system)
        plain, shown = self._tried(opening), self._tried(opening, self.tools)
        words = [word for schema in self.tools for word in words_of(schema)]
        whole = shown.count(SENTINEL) == 1 and shown.count(system) >= plain.count(system)
        return whole and all(shown.count(word) > plain.count(word) for word in words)

    def observation(self, text: str, name: str = SEARCH) -> str:
        """Return a tool's answer, from the end of the assistant's turn to where it speaks again: a tool message or,
        where the template has no such role, a user message."""
        return self.observations([(name, text)])

    def observations(self, results: Sequence[Result]) -> str:
        """Return the answers to the calls of one turn: a tool message each, in order. A template that shows only one
        has them all in it."""
        if not self._tool_role:
            messages = [_user("\n".join(_WRAPPED.format(text) for _, text in results))]
        elif len(results) == 1 or self._shows_several:
            messages = [_tool_message(text, name) for name, text in results]
        else:
            messages = [_tool_message("\n".join(text for _, text in results), results[0][0])]
        return self._text([*_turns(SENTINEL), *messages]).partition(SENTINEL)[2]

    def message(self, text: str) -> str:
        """Return a user's next message, from the end of the assistant's turn to where it speaks again."""
        if not self._shows_messages:
            raise self._unusable("it shows no second user message")
        return self._text([*_turns(SENTINEL), _user(text)]).partition(SENTINEL)[2]

    @cached_property
    def _shows_messages(self) -> bool:
        return self._count([*_turns(SENTINEL), _user(SENTINEL)]) == 2

    @cached_property
    def _shows_several(self) -> bool:
        return self._count([*_turns(SENTINEL), _tool_message(SENTINEL), _tool_message(SENTINEL)]) == 3

    def _opening(self, user: str, system: str) -> list[Message]:
        if system not in self._system_roles:
            self._system_roles[system] = self._has_system_role(system)
        if system and self._system_roles[system]:
            return [{"role": "system", "content": system}, _user(user)]
        return [_user(f"{system}\n\n{user}" if system else user)]

    def _has_system_role(self, system: str) -> bool:
        shown = self._tried([{"role": "system", "content": system}, _user(SENTINEL)])
        if shown.count(SENTINEL) == 1 and system.strip() in shown.partition(SENTINEL)[0]:
            return True
        if self._count([_user(f"{system}\n\n{SENTINEL}")]) != 1:
            raise self._unusable("it does not show a user message")
        return False

    def _count(self, messages: list[Message]) -> int:
        return self._tried(messages).count(SENTINEL)

    def _tried(self, messages: list[Message], tools: Sequence[Schema] = ()) -> str:
        """Return the messages as text; nothing where the template refuses them, each in a way of its own."""
        try:
            return self._text(messages, tools)
        except UserError:
            return ""

    def _text(self, messages: list[Message], tools: Sequence[Schema] = ()) -> str:
        offered: dict[str, Any] = {"tools": as_functions(tools)} if tools else {}
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.told, **offered
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


def _tool_message(text: str, name: str = SEARCH) -> Message:
    return {"role": "tool", "name": name, "content": text}
