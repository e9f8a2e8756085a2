"""What a search found stands in its turn, by id and rank, and in what a reward reads of it."""

import asyncio
import json

import pytest

from aslfast import rewards
from aslfast.core import Question
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.tool_calls import Call, search_call
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import Observation, SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rollout.tool_runner import CallLimits, ToolRunner
from aslfast.rollout.toolbox import Toolbox
from aslfast.tools.named import load_tools
from tests.support.scripted_sampler import ScriptedSampler
from tests.support.tiny_models import PASSAGES

MIRA, OSLO, AKER = (passage.contents for passage in PASSAGES)
TASK = PromptBuilder("compact").policy("t", Question("q", "Which river?", ("Aker",)))
ANSWER = "<answer>Aker</answer>"


def call(*queries, name="search", **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments or {'query_list': queries}})}</tool_call>"


def play(tokenizer, tool, *script, max_calls=1):
    limits = Limits(max_turns=4, max_new_tokens=200, max_context=4000, max_calls=max_calls)
    rollout = Rollout(ScriptedSampler(tokenizer, [*script, ANSWER]), tool, Chat(tokenizer), limits, 1.0)
    return asyncio.run(rollout.run(TASK, 0, 1, "policy"))


def passages_of(trajectory):
    return [turn.passages for turn in trajectory.turns if turn.kind == "tool"]


@pytest.mark.parametrize(
    ("queries", "top_k", "found", "ids"),
    [
        (["Oslo"], 3, [OSLO, MIRA], ("b", "a")),  # "Oslo" is twice in b, once in a, not in c
        (["Oslo", "Aker"], 2, [OSLO, MIRA, AKER], ("b", "a", "c")),  # the second finds c, then b again
        (["Aker", "Oslo"], 2, [AKER, OSLO, MIRA], ("c", "b", "a")),
        (["zzz", "born"], 1, [MIRA], ("a",)),
        (["zzz"], 3, ["nothing found"], ()),
    ],
)
def test_ids_are_in_the_order_of_the_text_each_once(index, queries, top_k, found, ids):
    """Over the queries of a call, as the text has the passages themselves."""
    (answer,) = SearchTool(index, top_k).answer([search_call(*queries)])
    assert answer == Observation("\n".join(found), ids) and answer.texts == (tuple(found) if ids else ())


def test_a_call_of_ones_own_may_ask_for_more_passages(index):
    calls = [Call("search", {"query": "Oslo"}, 2), search_call("Oslo")]  # of one batch
    assert [found.passages for found in SearchTool(index, 1).answer(calls)] == [("b", "a"), ("b",)]


@pytest.mark.parametrize("threaded", [False, True])
def test_every_tool_turn_has_its_own(tokenizer, index, threaded):
    tool = ToolExecutor(SearchTool(index, 2), threaded)
    trajectory = play(tokenizer, tool, call("Oslo", "Aker"), call("zzz"), call("Aker"))
    assert passages_of(trajectory) == [("b", "a", "c"), (), ("c", "b")]
    assert all(not turn.passages for turn in trajectory.turns if turn.kind != "tool")


def test_calls_of_one_turn_are_one_list(tokenizer, index):
    """In the order of the calls; what is no search has none."""
    runner = ToolRunner(load_tools(["tests.support.own.tools:add"])[0], False, CallLimits())
    tool = Toolbox(ToolExecutor(SearchTool(index, 1)), {"add": runner})
    said = call("Aker") + call(name="add", a=1) + call("Oslo") + call("Aker")
    trajectory = play(tokenizer, tool, said, max_calls=4)
    assert passages_of(trajectory) == [("c", "b")]
    assert trajectory.turns[2].text == "\n".join([AKER, "3", OSLO, AKER])


def test_the_rank_of_a_passage_is_that_of_the_first_turn_that_has_it(tokenizer, index):
    trajectory = play(tokenizer, ToolExecutor(SearchTool(index, 2)), call("zzz"), call("Oslo"), call("Aker"))
    assert passages_of(trajectory) == [(), ("b", "a"), ("c", "b")]
    ranks = {name: rewards.rank_of(trajectory, name) for name in "abcd"}
    assert ranks == {"a": 2, "b": 1, "c": 1, "d": None}
