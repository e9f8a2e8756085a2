"""Whatever a tool returns becomes a text of bounded length."""

import json

import pytest

from aslfast.tools.results import as_text, cut, error_text
from tests.support.own import tools


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is\n", "as it is\n"),
        (float("nan"), "null"),
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        (2**100, str(2**100)),
        ([1, float("inf"), None, "é"], '[1,null,null,"é"]'),
        ({"a": {1: (2, 3)}}, '{"a":{"1":[2,3]}}'),
        (tools.Point(1), '{"x":1,"y":0.0}'),
        (complex(1, 2), '"(1+2j)"'),
    ],
)
def test_a_result_is_a_text_or_json(result, text):
    assert as_text(result) == text


def test_a_table_is_json():
    assert json.loads(as_text(tools.table()))["größe"] == [1, None, None]


def test_a_result_without_end_is_an_error():
    with pytest.raises((RecursionError, ValueError)):
        as_text(tools.endless())


def test_a_long_result_is_cut():
    assert cut("x" * 100, 100) == "x" * 100
    assert cut("ab" * 500_000, 3) == "aba\n(cut here: 1,000,000 characters in all)"


def test_an_error_names_its_kind():
    assert error_text(KeyError("k")) == "KeyError: 'k'" and error_text(ValueError()) == "ValueError"
