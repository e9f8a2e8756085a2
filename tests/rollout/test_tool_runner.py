"""Tools of one's own in a rollout: whatever they do, a run goes on, and what they return is data."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from aslfast.config import load_recipe
from aslfast.core import Question, StopReason
from aslfast.errors import UserError
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rollout.tool_runner import CallLimits, ToolRunner
from aslfast.rollout.toolbox import Toolbox
from aslfast.tools.named import load_tools
from aslfast.trainer.build import build_rollout, build_tools
from tests.support.scripted_sampler import ScriptedSampler

OWN = "tests.support.own.tools"
QUICK = CallLimits(timeout_s=1.5, max_result_chars=1000, give_up_after_s=60.0)  # a busy machine answers in it too
BOTH = pytest.mark.parametrize("threaded", [False, True])
TASK = PromptBuilder("compact").policy("t", Question("q", "How much is it?", ("3",)))
ANSWER = "<think>so</think><answer>3</answer>"


def runner(name, threaded, limits=QUICK):
    return ToolRunner(load_tools([f"{OWN}:{name}"])[0], threaded, limits)


def called(name, threaded, arguments=None, limits=QUICK):
    return asyncio.run(runner(name, threaded, limits).call(arguments or {}))


def call(name, **arguments):
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


def play(tokenizer, index, script, names, threaded=False, max_calls=1):
    config = load_recipe("tiny", [f"tools={json.dumps(names)}", "tool.timeout_s=1.5", "tool.max_result_chars=1000",
                                  f"tool.max_calls={max_calls}", "sampler.max_context=4000"])  # fmt: skip
    tools = build_tools(config, index)
    for tool in tools.runners.values():
        tool.threaded = threaded
    sampler = ScriptedSampler(tokenizer, script)
    rollout = build_rollout(config, sampler, tokenizer, tools)
    return asyncio.run(rollout.run(TASK, 0, seed=1, adapter="policy")), sampler


# --- one tool ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", {"a": 1}, "3"),
        ("later", {"text": "ha", "times": 2}, "haha"),
        ("nan", {}, "null"),
        ("nothing", {}, "null"),
        ("add", {"a": "x"}, "error: add: Expected `int`, got `str` - at `$.a`"),
        ("later", {}, "error: later: Object missing required field `text`"),
        ("raises", {}, "error: RuntimeError: no luck"),
        ("raises", {"what": "a\nb"}, "error: RuntimeError: a\nb"),
        ("leaves", {}, "error: the tool tried to end the process (exit code 3)"),
        ("counter", {}, "1"),
    ],
)
def test_what_the_model_reads(name, arguments, said, threaded):
    if name == "counter":
        load_tools([f"{OWN}:counter"])[0].calls = 0
    assert called(name, threaded, arguments) == said


@BOTH
def test_a_table_an_endless_list_and_a_stopped_iteration(threaded):
    assert json.loads(called("table", threaded))["größe"] == [1, None, None]
    assert called("endless", threaded).startswith("error: ")
    assert called("stops", threaded).startswith("error: ")


@BOTH
@pytest.mark.parametrize("name", ["hangs", "hangs_async", "blocks_async"])
def test_a_tool_that_hangs_gives_no_answer(name, threaded):
    if name == "blocks_async" and threaded:
        pass  # its coroutine runs in the loop all the same, and is interrupted there
    started = time.monotonic()
    assert called(name, threaded) is None
    assert time.monotonic() - started < 15


@BOTH
def test_a_tool_that_goes_on_hanging_ends_the_run(threaded):
    gone = runner("hangs", threaded, CallLimits(0.05, give_up_after_s=0.1))

    async def ask():
        return [await gone.call({}) for _ in range(9)]

    said = (
        r"the tool 'hangs' has answered no call for 0 s "
        r"\(\d consecutive calls failed, the last one with: no result within 0\.05 s\)"
    )
    with pytest.raises(UserError, match=said):
        asyncio.run(ask())


@BOTH
def test_ten_megabytes_are_cut(threaded):
    text = called("huge", threaded)
    assert text.endswith("(cut here: 10,080,000 characters in all)") and len(text) < 1100


@BOTH
def test_at_most_so_many_calls_at_once(threaded):
    running = most = 0

    class Slow:
        name, schema = "slow", {"name": "slow", "description": "", "parameters": {"properties": {}}}

        async def call(self, arguments):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return "done"

    slow = ToolRunner(Slow(), threaded, CallLimits(5.0, max_concurrent=3))

    async def ask():
        return await asyncio.gather(*(slow.call({}) for _ in range(20)))

    assert asyncio.run(ask()) == ["done"] * 20 and most == 3
    assert asyncio.run(ask()) == ["done"] * 20  # in another loop


def test_threads_overlap_and_a_late_answer_is_dropped():
    class Sleeps:
        name, schema = "sleeps", {"name": "sleeps", "description": "", "parameters": {"properties": {}}}

        def call(self, arguments):
            time.sleep(arguments["seconds"])
            return arguments["seconds"]

    sleeps = ToolRunner(Sleeps(), True, CallLimits(2.0))

    async def ask():
        started = time.monotonic()
        found = await asyncio.gather(*(sleeps.call({"seconds": seconds}) for seconds in [0.5] * 8 + [3.0]))
        seconds = time.monotonic() - started
        await asyncio.sleep(1.2)
        return found, seconds

    found, seconds = asyncio.run(ask())
    assert found == ["0.5"] * 8 + [None] and seconds < 3


def test_a_cancelled_call_leaves_its_permit():
    slow = runner("hangs_async", False, CallLimits(60.0, max_concurrent=1))
    quick = runner("add", False)

    async def ask():
        first = asyncio.ensure_future(slow.call({}))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.ensure_future(slow.call({}))
        await asyncio.sleep(0.01)
        assert not second.done()  # it runs, and does not wait for the first
        second.cancel()
        return await quick.call({"a": 1})

    assert asyncio.run(ask()) == "3"


# --- in a rollout --------------------------------------------------------------------------------------------------


def test_a_trajectory_with_two_tools(tokenizer, index):
    names = ["search", f"{OWN}:add"]
    script = [call("search", query="Oslo"), call("add", a=1), call("add", a="x"), ANSWER]
    played, sampler = play(tokenizer, index, script, names)
    assert played.stop is StopReason.FINISHED and played.output == "3"
    found, *others = [turn.text for turn in played.turns if turn.kind == "tool"]
    assert "Oslo" in found and others == ["3", "error: add: Expected `int`, got `str` - at `$.a`"]
    prompt = tokenizer.decode(sampler.requests[0].token_ids)
    assert '{"name": "search", "description"' in prompt and '{"name": "add", "description"' in prompt
    assert sampler.requests[0].stop[0] == "</tool_call>"
    assert sum(played.loss_mask) == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in script)


@pytest.mark.parametrize(
    ("script", "stop"),
    [
        ([call("subtract", a=1)], StopReason.UNKNOWN_TOOL),
        ([call("add", a=1) * 2], StopReason.MALFORMED_CALL),
        ([call("search")], StopReason.MALFORMED_CALL),
        ([call("hangs")], StopReason.TOOL_FAILED),
    ],
)
def test_how_a_trajectory_ends(tokenizer, index, script, stop):
    played, _ = play(tokenizer, index, script, ["search", f"{OWN}:add", f"{OWN}:hangs"])
    assert played.stop is stop and played.output is None


def test_without_the_search_it_is_unknown(tokenizer, index):
    played, sampler = play(tokenizer, index, [call("search", query="x")], [f"{OWN}:add"])
    assert played.stop is StopReason.UNKNOWN_TOOL
    assert '"name": "search"' not in tokenizer.decode(sampler.requests[0].token_ids)


@BOTH
def test_several_calls_in_a_turn_are_answered_in_order(tokenizer, index, threaded):
    names = ["search", f"{OWN}:add", f"{OWN}:later"]
    turn = call("later", text="first") + call("add", a=1) + call("search", query="Oslo") + call("add", a=5)
    played, sampler = play(tokenizer, index, [f"{turn}<|im_end|>", ANSWER], names, threaded, max_calls=4)
    assert played.stop is StopReason.FINISHED and played.tool_calls == 1
    seen = tokenizer.decode(sampler.requests[1].token_ids[len(sampler.requests[0].token_ids) :])
    results = seen.split("<|im_start|>tool\n")[1:]
    assert len(results) == 4 and "</tool_call>" not in sampler.requests[0].stop
    assert [results[i].partition("<|im_end|>")[0].strip() for i in (0, 1, 3)] == ["first", "3", "7"]
    assert "Oslo" in results[2] and seen.endswith("<|im_start|>assistant\n")


def test_one_call_of_several_without_an_answer_fails_the_trajectory(tokenizer, index):
    turn = call("add", a=1) + call("hangs")
    played, _ = play(tokenizer, index, [turn], [f"{OWN}:add", f"{OWN}:hangs"], max_calls=2)
    assert played.stop is StopReason.TOOL_FAILED and [turn.kind for turn in played.turns] == ["prompt", "sampled"]


@BOTH
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("count", [1, 3])
def test_no_result_forges_a_turn(tokenizer, index, number, count, threaded):
    forged, harmless = (
        play(tokenizer, index, [call("forge", number=i) * count, ANSWER], [f"{OWN}:forge"], threaded, count)[0]
        for i in (number, 9)
    )
    assert forged.stop is StopReason.FINISHED and forged.output == "3"
    control = set(tokenizer.get_added_vocab().values())
    assert control_of(forged, control) == control_of(harmless, control)


def control_of(trajectory, control):
    """The control tokens that were not sampled, in order."""
    pairs = zip(trajectory.token_ids, trajectory.loss_mask, strict=True)
    return [id_ for id_, sampled in pairs if id_ in control and not sampled]


def test_ten_megabytes_of_control_tokens_forge_nothing(tokenizer, index):
    played, _ = play(tokenizer, index, [call("huge"), ANSWER], [f"{OWN}:huge"])
    assert played.stop is StopReason.FINISHED
    observed = tokenizer.decode(played.token_ids[played.turns[2].start : played.turns[2].end])
    assert observed.count("<|im_start|>") == 2 and "<answer>" not in observed


def test_the_search_alone_has_its_executor_alone(index):
    config = load_recipe("tiny")
    assert type(build_tools(config, index)) is ToolExecutor and build_tools(config, index).schemas == ()
    assert type(build_tools(load_recipe("tiny", [f'tools=["{OWN}:add"]']), index)) is Toolbox


def test_a_run_is_the_same_again(tokenizer, index):
    script = [call("later", text="a") + call("add", a=2), ANSWER]
    first, again = (play(tokenizer, index, script, [f"{OWN}:add", f"{OWN}:later"], max_calls=2)[0] for _ in range(2))
    assert first == again


def test_a_template_without_tools_of_its_own_needs_no_system_message(tokenizer):
    rollout = Rollout(ScriptedSampler(tokenizer, [ANSWER]), Toolbox(None, {}), Chat(tokenizer), Limits(), 1.0)
    assert asyncio.run(rollout.run(TASK, 0, 1, None)).stop is StopReason.FINISHED
