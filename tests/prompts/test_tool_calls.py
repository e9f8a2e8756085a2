"""The calls that models write, in each dialect; and that nothing else is one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aslfast.prompts.tool_calls import NO_LIMIT, Call, parse_calls, search_call

ADD, FIND = Call("add", {"a": 1, "b": "x"}), Call("find", {"q": ["<b>", None]})


def hermes(*calls):
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': call.arguments})}\n</tool_call>" for call in calls
    )


def llama(*calls):
    return "; ".join(json.dumps({"name": call.name, "parameters": call.arguments}) for call in calls)


def mistral_list(*calls):
    return "[TOOL_CALLS]" + json.dumps([{"name": c.name, "arguments": c.arguments, "id": "Ab3dE6gH9"} for c in calls])


def mistral_args(*calls):
    return "".join(f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}" for call in calls)


WRITERS = {
    "hermes": hermes,
    "hermes after words": lambda *calls: f"I look it up.\n\n{hermes(*calls)}<|im_end|>\n",
    "llama": lambda *calls: f"{llama(*calls)}<|eot_id|>",
    "llama, python tag": lambda *calls: f"<|python_tag|>{llama(*calls)}<|eom_id|>",
    "llama, arguments": lambda *calls: llama(*calls).replace('"parameters"', '"arguments"'),
    "llama 3.1, function": lambda *calls: "".join(
        f"<function={call.name}>{json.dumps(call.arguments)}</function>" for call in calls
    ),
    "mistral, list": lambda *calls: f"{mistral_list(*calls)}</s>",
    "mistral, args": lambda *calls: f"{mistral_args(*calls)}</s>",
    "mistral, id": lambda *calls: mistral_args(*calls).replace("[ARGS]", "[CALL_ID]Ab3dE6gH9[ARGS]"),
    "mistral, bare": lambda *calls: mistral_args(*calls).replace("[ARGS]", ""),
}


@pytest.mark.parametrize("dialect", WRITERS)
def test_every_dialect(dialect):
    write = WRITERS[dialect]
    assert parse_calls(write(ADD)) == (ADD,)
    assert parse_calls(write(ADD, FIND), 2) == (ADD, FIND)
    assert parse_calls(write(ADD, FIND, ADD), 3) == (ADD, FIND, ADD)
    assert parse_calls(write(ADD, FIND), 1) is None  # one more than a turn may hold


XML = """<tool_call>
<function=run>
<parameter=code>
if a < b:
    print("</p>")

</parameter>
<parameter=times>3</parameter>
</function>
</tool_call>"""


def test_qwen3_coder_writes_texts_in_tags():
    assert parse_calls(XML) == (Call("run", {"code": 'if a < b:\n    print("</p>")\n', "times": "3"}),)
    assert parse_calls(f"{XML}\n{XML}<|im_end|>", 2) == parse_calls(XML) * 2
    bare = XML.replace("<tool_call>", "").replace("</tool_call>", "")
    assert parse_calls(bare) == parse_calls(XML)
    assert parse_calls("<function=now>\n</function>") == (Call("now", {}),)


@pytest.mark.parametrize(
    "text",
    [
        "", "It is Oslo.", "<answer>Oslo</answer>", "42", "null", "[1]", '"text"', '{"a": 1}', '{"name": "Oslo"}',
        '{"name": "add", "parameters": "a"}', '{"name": 3, "parameters": {}}', '{"name": "add", "parameters": {}} then',
        'It is {"name": "add", "parameters": {}}', '{"name": "add", "parameters": {}', "{" * 10_000, "[" * 100_000,
        "; ;",
    ],
)  # fmt: skip
def test_what_is_no_call(text):
    assert parse_calls(text, NO_LIMIT) == ()


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>", "</tool_call>", "<tool_call></tool_call>", "</tool_call><tool_call>",
        f"<tool_call>{hermes(ADD)}", f"<tool_call>{hermes(ADD)}</tool_call>", f"{hermes(ADD)}</tool_call>",
        f"{hermes(ADD)}<tool_call>{{}}</tool_call>", "<tool_call>" + "[" * 100_000 + "</tool_call>",
        "[TOOL_CALLS]", "[TOOL_CALLS][]", "[TOOL_CALLS][1]", "[TOOL_CALLS]add", "[TOOL_CALLS]add[ARGS]{",
        "[TOOL_CALLS]{}",
        "[TOOL_CALLS]add[ARGS][1]", mistral_args(ADD) + "[TOOL_CALLS]", "<|python_tag|>print(1)", "<|python_tag|>",
        '<|python_tag|>{"name": "add"}', "<function=add>", "<function=add>{]</function>", "<function=add>1</function>",
        "<function=a><parameter=b>1</parameter>and</function>",
        "<function=a><parameter=b>1</parameter><parameter=b>2</parameter></function>",
        "<function=a><parameter=b>1</function>",
    ],
)  # fmt: skip
def test_what_is_malformed(text):
    assert parse_calls(text, NO_LIMIT) is None


@pytest.mark.parametrize("mark", ["<tool_response>3</tool_response>", "<answer>3</answer>", "</tool_response>"])
def test_no_turn_writes_the_answers_to_its_own_calls(mark):
    assert parse_calls(hermes(ADD) + mark + hermes(FIND), 2) is None
    assert parse_calls(f"{hermes(ADD)}\n{mark}", 2) is None


@given(st.text(alphabet='{}[]"<>/|_=;:, \nabTOLCS', max_size=60) | st.text(max_size=20))
def test_any_text_is_read_without_an_error(text):
    for opened in (text, f"<tool_call>{text}</tool_call>", f"[TOOL_CALLS]{text}", f"<|python_tag|>{text}"):
        calls = parse_calls(opened, NO_LIMIT)
        assert calls is None or all(isinstance(call, Call) for call in calls)


def test_a_searchs_queries():
    assert search_call("a", "b").queries == ("a", "b")
    assert Call("search", {"query": " a "}).queries == ("a",)
    assert Call("search", {"query_list": '["a", "b"]'}).queries == ("a", "b")  # a dialect without types
    for arguments in ({}, {"query": 5}, {"query_list": []}, {"query_list": ["a", None]}, {"query_list": "a"}):
        assert Call("search", arguments).queries == ()
