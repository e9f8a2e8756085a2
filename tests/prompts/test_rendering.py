"""Prompt and observation are what the template itself makes of the conversation, token for token.

A sweep over the structures of tests/support/prompts/chat_templates.py and, where TRL is installed (`pip install
--no-deps trl`), over every template that ships with it.
"""

import datetime
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from aslfast.errors import UserError
from aslfast.prompts.chat_template import Chat
from tests.support.prompts.chat_templates import (
    DEEPSEEK,
    JSON,
    JSON_OUTPUT,
    NAMED,
    OPENS_THINKING,
    PLAIN,
    REFUSED,
    TOKENIZERS,
    USABLE,
    by_bytes,
    sentencepiece,
)

TRL = find_spec("trl")
TRL_TEMPLATES = sorted((Path(TRL.origin).parent / "chat_templates").glob("*.jinja")) if TRL and TRL.origin else []
TEXTS = ["Oslo.", ' "Oslo"\nlies on the "Aker"; \\ café \n', "[1] a\n\n[2] {b: 'c'}"]
SYSTEM, SAID = "Be brief.", "x"


def own(tokenizer, *messages):
    """The template's own rendering; nothing where it refuses the messages."""
    told = [dict(zip(("role", "content"), message, strict=True)) for message in messages]
    told = [{**message, "name": "search"} if message["role"] == "tool" else message for message in told]
    try:
        return tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
    except Exception:
        return ""


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def own_prompt(tokenizer, text):
    """The rendering with the system message where the template shows it, else at the user's head."""
    shown = own(tokenizer, ("system", SYSTEM), ("user", text))
    return shown if SYSTEM in shown else own(tokenizer, ("user", f"{SYSTEM}\n\n{text}"))


def own_conversation(tokenizer, text):
    """The rendering of a conversation that ends with a tool's answer or, without such a role, with a user's message."""
    opening = ("user", "q"), ("assistant", f"{SAID}{SAID}")
    probe = own(tokenizer, *opening, ("tool", "Trondheim"))
    shown = ("tool", text) if "Trondheim" in probe else ("user", f"<tool_response>\n{text}\n</tool_response>")
    return own(tokenizer, *opening, shown)


def assert_renders_as_the_template(tokenizer):
    chat = Chat(tokenizer)
    for text in TEXTS:
        assert chat.prompt_ids(text) == ids_of(tokenizer, own(tokenizer, ("user", text)))
        assert chat.prompt_ids(text, SYSTEM) == ids_of(tokenizer, own_prompt(tokenizer, text))
        whole, seen = ids_of(tokenizer, own_conversation(tokenizer, text)), chat.observation_ids(text, False)
        assert whole[-len(seen) :] == seen
        assert chat.text(whole[: -len(seen)]).rstrip(" ").endswith(SAID + SAID)  # all of it, up to what was said
        closed = chat.observation_ids(text, True)
        end = next((i for i, id_ in enumerate(seen) if chat.ends_turn([id_])), -1)
        assert closed == seen[end + 1 :]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", USABLE)
def test_every_structure_is_rendered_as_the_template_does(name, kind):
    assert_renders_as_the_template(TOKENIZERS[kind](USABLE[name]))


@pytest.mark.skipif(not TRL_TEMPLATES, reason="TRL is not installed")
@pytest.mark.parametrize("file", TRL_TEMPLATES, ids=lambda file: file.stem)
def test_trls_templates_are_rendered_as_themselves_or_refused(file):
    for make in TOKENIZERS.values():
        tokenizer = make(file.read_text(encoding="utf-8"))
        try:
            Chat(tokenizer)
        except UserError as error:
            assert "Trondheim" not in own_conversation(tokenizer, "Trondheim") and "\n" not in str(error)
        else:
            assert_renders_as_the_template(tokenizer)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_shows_no_text_is_refused_in_a_line(name):
    tokenizer = by_bytes(REFUSED[name] or "")
    tokenizer.chat_template = REFUSED[name]
    with pytest.raises(UserError, match="use an instruct model") as refused:
        Chat(tokenizer)
    assert "\n" not in str(refused.value)


def test_a_tools_text_is_json_where_the_template_writes_json():
    text = 'He said "no"\nand left. \\ <|eot_id|>'
    for template, content in ((JSON, lambda said: said), (JSON_OUTPUT, lambda said: said["output"])):
        chat = Chat(by_bytes(template))
        shown = chat.text(chat.observation_ids(text, True))
        written = shown.partition("ipython<|end_header_id|>\n\n")[2].partition("<|eot_id|>")[0]
        assert content(json.loads(written)) == text.translate({ord("<"): "\u2039", ord(">"): "\u203a"})


def test_a_named_tool_message_names_the_search():
    chat = Chat(by_bytes(NAMED))
    assert '<tool_output name="search">\nfound\n' in chat.text(chat.observation_ids("found", True))


def test_no_space_opens_an_observation_of_a_sentencepiece_tokenizer():
    """Its text stands after a turn: a tokenizer that opens a text of its own with "▁" does not here."""
    tokenizer = sentencepiece(PLAIN)
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids_of(tokenizer, "[INST]"))[0] == "▁["
    opening = tokenizer.convert_ids_to_tokens(chat.observation_ids("found", turn_closed=True))
    assert opening[:4] == ["[", "I", "N", "S"]
    opening = tokenizer.convert_ids_to_tokens(chat.observation_ids("found", turn_closed=False))
    assert opening[:4] == ["▁", "</s>", "[", "I"]


def test_where_a_template_opens_the_thinking():
    opened = {name: Chat(by_bytes(template)) for name, template in USABLE.items()}
    in_prompt = {name for name, chat in opened.items() if chat.opens_thinking(first_turn=True)}
    after_observation = {name for name, chat in opened.items() if chat.opens_thinking(first_turn=False)}
    assert in_prompt == {"opens thinking", "deepseek"} and after_observation == {"opens thinking"}
    assert USABLE["deepseek"] is DEEPSEEK and USABLE["opens thinking"] is OPENS_THINKING


def test_the_date_of_a_prompt_is_the_runs():
    tokenizer = by_bytes(JSON)
    told, today = Chat(tokenizer, "2024-07-26"), Chat(tokenizer)
    assert "Today Date: 26 Jul 2024\n" in told.text(told.prompt_ids("q"))
    assert f"Today Date: {datetime.date.today():%d %b %Y}\n" in today.text(today.prompt_ids("q"))
    assert told.observation_ids("found", False) == today.observation_ids("found", False)
