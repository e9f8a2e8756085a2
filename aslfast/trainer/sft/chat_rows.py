"""Conversations -> token streams, by the tokenizer's own chat template: {"messages": [...], "weight": 1.0} a line.

What is learnt is each assistant message, up to and with the token that ends its turn: the text that the template puts
after its opening of an assistant turn. Prompt and message are tokenised apart, as in a rollout, where the model goes on
from a tokenised prompt. Where the template rewrites earlier turns (some drop past reasoning), the conversation becomes
several streams, each an assistant turn behind the history that the model would see.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from jinja2 import TemplateError

from aslfast.errors import UserError
from aslfast.prompts.chat_template import Chat
from aslfast.trainer.sft.rows import SftRow, make_row

Message = dict[str, object]
SPEAKERS = ("system", "user", "assistant", "tool")


class ChatLine(msgspec.Struct):
    """A line of the file. tools: JSON schemas that the template shows; weight: of the line's tokens in the loss."""

    messages: list[Message]
    tools: list[dict[str, object]] | None = None
    weight: float = 1.0


@dataclass(slots=True)
class _Stream:
    """Token ids with their mask, and the text that they stand for."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)


def read_chat_rows(file: Path, role: str, chat: Chat) -> list[SftRow]:
    """Return the streams of a file's conversations. Raise UserError, which names the line."""
    rows: list[SftRow] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows += _rows_of(_decoded(line, f"{file}: line {number}"), f"{file}: line {number}", role, chat)
    return rows


def _decoded(line: bytes, place: str) -> ChatLine:
    try:
        decoded = msgspec.json.decode(line, type=ChatLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: {error}; write one object a line, with a list of messages") from error
    for message in decoded.messages:
        if message.get("role") not in SPEAKERS:
            raise UserError(f"{place}: a message's role is {message.get('role')!r}; use one of {', '.join(SPEAKERS)}")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise UserError(f"{place}: a message of {message['role']} has no content; give it a text")
    if not any(message["role"] == "assistant" for message in decoded.messages):
        raise UserError(f"{place}: no message of the assistant; there is nothing to learn from")
    if not (math.isfinite(decoded.weight) and decoded.weight > 0):
        raise UserError(f"{place}: weight is {decoded.weight}; it must be above 0")
    return decoded


def _rows_of(line: ChatLine, place: str, role: str, chat: Chat) -> list[SftRow]:
    line = msgspec.structs.replace(line, messages=[_inert(message, chat) for message in line.messages])
    turns = [i for i, message in enumerate(line.messages) if message["role"] == "assistant"]
    streams = [_Stream()]
    for i in turns:
        opened, closed = _rendered(line, i, True, place, chat), _rendered(line, i + 1, False, place, chat)
        if not closed.startswith(opened):
            what = "the chat template renders a message of the assistant without the opening that it prompts with"
            raise UserError(f"{place}: {what}; give the data as trajectories, or the model another template")
        if not opened.startswith(streams[-1].text):
            streams.append(_Stream())
        _append(streams[-1], opened[len(streams[-1].text) :], 0, chat)
        _append(streams[-1], _turn(closed[len(opened) :], chat, place), 1, chat)
    prompt = json.dumps(line.messages[: turns[0]])
    return [make_row(place, role, stream.ids, stream.mask, prompt, line.weight) for stream in streams]


def _append(stream: _Stream, text: str, in_loss: int, chat: Chat) -> None:
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    stream.text += text
    stream.ids += ids
    stream.mask += [in_loss] * len(ids)


def _turn(said: str, chat: Chat, place: str) -> str:
    """Return what the model is to say of a rendered message: up to the token that ends its turn."""
    ends = [(said.rfind(token), token) for token in chat.tokenizer.all_special_tokens if token in said]
    if not ends:
        return said
    at, token = max(ends)
    if any(said.find(other) < at for _, other in ends):
        raise UserError(f"{place}: a message of the assistant spells the control token {token}; remove it")
    return said[: at + len(token)]


def _inert(message: Message, chat: Chat) -> Message:
    """Return a message of the user or a tool without control tokens: it is data, and must not forge a turn."""
    content = message.get("content")
    if message["role"] not in ("user", "tool") or not isinstance(content, str):
        return message
    spelled = any(token in content for token in chat.tokenizer.all_special_tokens)
    return {**message, "content": chat.escape_control_tokens(content)} if spelled else message


def _rendered(line: ChatLine, n_messages: int, prompt: bool, place: str, chat: Chat) -> str:
    """Return the first messages as the template renders them; with `prompt`, up to where the assistant speaks."""
    render, settings = chat.tokenizer.apply_chat_template, {"tools": line.tools, **chat.rendering.told}
    try:
        return render(line.messages[:n_messages], tokenize=False, add_generation_prompt=prompt, **settings)
    except (TemplateError, TypeError, ValueError, KeyError) as error:  # templates refuse in each of these ways
        what = f"the chat template refuses these messages ({error})"
        raise UserError(f"{place}: {what}; use the roles and the order that it knows") from error
