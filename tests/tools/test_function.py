"""A function as a tool: its schema is its signature and docstring; what does not fit it never reaches the function."""

from __future__ import annotations

import asyncio
import re

import pytest

from aslfast.config import load_recipe
from aslfast.config.own_parts import check_own_parts
from aslfast.errors import UserError
from aslfast.tools import ToolError
from aslfast.tools.named import files_of, load_tools
from aslfast.trainer.provenance import places

OWN = "tests.support.own.tools"


def tool(name):
    return load_tools([f"{OWN}:{name}"])[0]


def test_the_schema_is_the_signature_and_the_docstring():
    assert tool("add").schema == {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first number"},
                "b": {
                    "type": "integer", "description": "the second number, which may be left out", "default": 2
                },
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    }  # fmt: skip
    later = tool("later").schema
    assert later["description"] == "Say a text a few times."
    assert later["parameters"]["properties"] == {
        "text": {"type": "string", "description": "what to say"},
        "times": {"type": "integer", "minimum": 1, "maximum": 5, "default": 1},
    }


def test_types_of_ones_own_are_part_of_the_schema():
    parameters = tool("far").schema["parameters"]
    assert parameters["properties"]["to"] == {"$ref": "#/$defs/Point"}
    assert set(parameters["$defs"]["Point"]["properties"]) == {"x", "y"}
    assert parameters["properties"]["how"] == {"enum": ["air", "road"], "default": "road"}


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add", {"a": 1}, 3),
        ("add", {"a": 1, "b": -1}, 0),
        ("add", {"a": "40", "b": "2"}, 42),  # a dialect without types
        ("far", {"to": {"x": 1}, "ways": ["a"]}, "1,0 ['a'] road None"),
        ("far", {"to": '{"x": 1, "y": 2}', "ways": '["a", "b"]', "how": "air"}, "1,2 ['a', 'b'] air None"),
        ("far", {"to": {"x": 1}, "ways": [], "tags": '{"k": 3}'}, "1,0 [] road {'k': 3}"),
        ("echo", {"text": "42"}, "42"),
        ("echo", {"text": '{"a": 1}'}, '{"a": 1}'),
    ],
)
def test_a_call(name, arguments, result):
    assert tool(name).call(arguments) == result


def test_an_async_function():
    assert asyncio.run(tool("later").call({"text": "ha", "times": 2})) == "haha"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", {}, "add: Object missing required field `a`"),
        ("add", {"a": 1, "c": 2}, "add: Object contains unknown field `c`"),
        ("add", {"a": "one"}, "add: Expected `int`, got `str` - at `$.a`"),
        ("add", {"a": None}, "add: Expected `int`, got `null` - at `$.a`"),
        ("add", {"a": [1]}, "add: Expected `int`, got `array` - at `$.a`"),
        ("later", {"text": "x", "times": 9}, "later: Expected `int` <= 5 - at `$.times`"),
        ("far", {"to": {"y": 1}, "ways": []}, "far: Object missing required field `x` - at `$.to`"),
        ("far", {"to": {"x": 1}, "ways": [], "how": "sea"}, "far: Invalid enum value 'sea' - at `$.how`"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(name, arguments, said):
    with pytest.raises(ToolError, match=f"^{re.escape(said)}$"):
        tool(name).call(arguments)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no_such_module:f", "tools: no module 'no_such_module'"),
        (f"{OWN}:no_such_name", "has no 'no_such_name'"),
        (f"{OWN}:undocumented", f"tools: {OWN}:undocumented has no docstring; a tool is a function with a docstring"),
        (f"{OWN}:untyped", "has no type hint for a; a tool is"),
        (f"{OWN}:starred", "takes *parts: str, which no call can name"),
        (f"{OWN}:positional", "takes a: int, which no call can name"),
        (f"{OWN}:odd", "its signature cannot be a JSON schema (TypeError: "),
        (f"{OWN}:unknown_hint", "its signature cannot be a JSON schema (NameError: name 'NoSuchType'"),
        (f"{OWN}:number", f"tools: {OWN}:number is a int; a tool is a function with a docstring"),
        (f"{OWN}:Counter", "is a type; a tool is a function"),
        (f"{OWN}:nameless", "a tool is called 'no name'; use letters"),
        (f"{OWN}:schemaless", "the schema of bare lacks a part"),
        (f"{OWN}:search", f"search and {OWN}:search both have a tool 'search'; rename one"),
    ],
)
def test_a_wrong_tool_is_one_line_before_the_run(named, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        check_own_parts(load_recipe("tiny", [f'tools=["search", "{named}"]']))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["calculator", "mcp:", "mcp: ", "my_tools.calculator", "Search", "a:b:c"])
def test_what_names_no_tool(name):
    with pytest.raises(
        UserError, match=r"recipe tiny|--set.*: an entry of tools is .*; use \"search\", module:function"
    ):
        load_recipe("tiny", [f'tools=["{name}"]'])


def test_an_object_is_a_tool_as_it_is():
    counter = tool("counter")
    assert counter.name == "count" and counter.call({}) + 1 == tool("counter").call({})


def test_the_tools_code_is_an_input_of_the_run(tmp_path):
    script = tmp_path / "server.py"
    script.write_text("")
    config = load_recipe("tiny", [f"tools=['search', '{OWN}:add', 'mcp:python {script} --fast', 'mcp:http://x/mcp']"])
    read = places(config)
    assert read[f"tools: {OWN}:add"].endswith("own/tools.py")
    assert [place for key, place in read.items() if key.startswith("tools: 'mcp:")] == [str(script)]
    assert files_of(["search"]) == {}
