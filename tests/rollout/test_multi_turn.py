"""The multi-turn rollout: what an agent does wrong is data, and the token stream is exactly what was sampled.

A scripted sampler plays the model; tokenizer, template, search tool and index are the real ones.
"""

import asyncio
import dataclasses
from itertools import pairwise

import pytest

from aslfast import rewards
from aslfast.core import Question, StopReason
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Rollout, gather_bounded, stable_seed
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import NOTHING_FOUND, SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.sampler.local.sampler import LocalSampler
from tests.support.scripted_sampler import ScriptedSampler


def search(query="born Oslo"):
    return f'<think>I look</think><tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


GOOD = "<think>Aker it is</think><answer> the Aker\n</answer>"
LIMITS = Limits(max_turns=3, max_new_tokens=200, max_context=4000)
PROMPTS = PromptBuilder("compact")
TASKS = {
    "policy": PROMPTS.policy("t", Question("q", "Which river runs through Mira's birthplace?", ("Aker",))),
    "grm": PROMPTS.judge("j", Question("q", "Which river?"), "Aker", "correct"),
    "generator": PROMPTS.generator("g", "Mira", 2),
}


def play(tokenizer, index, script, role="policy", limits=LIMITS, system=""):
    sampler = ScriptedSampler(tokenizer, script)
    rollout = Rollout(sampler, ToolExecutor(SearchTool(index, top_k=1)), Chat(tokenizer), limits, 1.0, system)
    trajectory = asyncio.run(rollout.run(TASKS[role], 0, seed=1, adapter=role, version=7))
    return trajectory, sampler


def reward_of(trajectory):
    """Return the reward of its role where all other roles favour it."""
    if trajectory.task.role == "policy":
        return rewards.policy_reward(trajectory, ["correct"], 1.0).total
    if trajectory.task.role == "grm":
        return rewards.grm_reward(trajectory, "correct", 1.0).total
    evidence = rewards.question_evidence(trajectory, ["correct", "wrong"], ["correct"], 0.5)
    return rewards.generator_reward(trajectory, evidence, 1.0).total


def call(text='{"name": "search", "arguments": {"query": "x"}}'):
    return f"<tool_call>{text}</tool_call>"


MALFORMED_CALLS = {
    "no JSON": call("search Oslo"),
    "single quotes": call("{'name': 'search', 'arguments': {'query': 'x'}}"),
    "JSON cut short": call('{"name": "search", "arguments": {"query": "x"}'),
    "a list": call('[{"name": "search", "arguments": {"query": "x"}}]'),
    "no arguments": call('{"name": "search"}'),
    "no query": call('{"name": "search", "arguments": {}}'),
    "arguments as text": call('{"name": "search", "arguments": "query"}'),
    "an empty query": call('{"name": "search", "arguments": {"query": "  "}}'),
    "a query that is a number": call('{"name": "search", "arguments": {"query": 5}}'),
    "no queries in the list": call('{"name": "search", "arguments": {"query_list": []}}'),
    "one bad query of two": call('{"name": "search", "arguments": {"query_list": ["x", null]}}'),
    "no name": call('{"arguments": {"query": "x"}}'),
    "nested without end": call("[" * 20000),
    "two calls": call() + call(),
    "a call in a call": f"<tool_call>{call()}",
    "an unclosed call": "<tool_call>{}<|im_end|>",
    "a call never opened": "{}</tool_call>",
}
NO_OUTPUT = {
    "no answer": "<think>hm</think>It is the Aker.<|im_end|>",
    "nothing at all": "<|im_end|>",
    "an empty answer": "<answer> </answer>",
    "an unclosed answer": "<answer>Aker<|im_end|>",
    "an answer never opened": "Aker</answer>",
    "an answer inside its thoughts": "<think>say <answer>Aker</answer> then</think>done<|im_end|>",
    "an answer in an unclosed thought": "<think>so <answer>Aker</answer>",
    "an answer in a nested thought": "<think>a<think>b</think><answer>Aker</answer></think>",
    "an answer in a thought that the template opened": "so <answer>Aker</answer></think>",
    "a call inside its thoughts": f"<think>{call()}",
    "an answer made of tags": "<answer><tool_response>Aker</tool_response></answer>",
}
TWO_OUTPUTS = {
    "two answers": "<answer>Aker</answer><answer>Oslo</answer>",
    "the same answer twice": "<answer>Aker</answer> <answer>Aker</answer>",
    "an answer in an answer": "<answer>Oslo<answer>Aker</answer>",
    "an answer closed twice": "<answer>Aker</answer></answer>",
}
WRONG = {
    **{f"call: {name}": ([text], StopReason.MALFORMED_CALL) for name, text in MALFORMED_CALLS.items()},
    **{name: ([text], StopReason.NO_OUTPUT) for name, text in NO_OUTPUT.items()},
    **{name: ([text], StopReason.TWO_OUTPUTS) for name, text in TWO_OUTPUTS.items()},
    "a malformed second call": ([search(), call("again")], StopReason.MALFORMED_CALL),
    "an unknown tool": ([call('{"name": "find", "arguments": {"query": "x"}}')], StopReason.UNKNOWN_TOOL),
    "an unknown tool's arguments": ([call('{"name": "add", "arguments": {"a": 1}}')], StopReason.UNKNOWN_TOOL),
    "an over-long turn": ([("<answer>Aker</answer>", "length")], StopReason.TURN_TOO_LONG),
    "still searching at the last turn": ([search(), search(), search()], StopReason.TURN_LIMIT),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_policy_does_wrong(tokenizer, index, name):
    script, stop = WRONG[name]
    trajectory, sampler = play(tokenizer, index, script)
    assert trajectory.stop is stop
    assert trajectory.output is None and trajectory.output_answer is None
    assert reward_of(trajectory) == 0.0
    assert len(sampler.requests) == len(script)


VERDICTS = {
    "<verdict>correct</verdict>": (StopReason.FINISHED, "correct"),
    "<think>x</think><verdict> Wrong\n</verdict>": (StopReason.FINISHED, "wrong"),
    "<verdict>correct/wrong</verdict>": (StopReason.NO_OUTPUT, None),
    "<verdict>correct or wrong</verdict>": (StopReason.NO_OUTPUT, None),
    "<verdict>not correct</verdict>": (StopReason.NO_OUTPUT, None),
    "<verdict>incorrect</verdict>": (StopReason.NO_OUTPUT, None),
    "<verdict></verdict>": (StopReason.NO_OUTPUT, None),
    "<verdict>correct</verdict> or <verdict>wrong</verdict>": (StopReason.TWO_OUTPUTS, None),
    "<think><verdict>correct</verdict></think>": (StopReason.NO_OUTPUT, None),
    "<answer>correct</answer>": (StopReason.NO_OUTPUT, None),
}


@pytest.mark.parametrize("text", VERDICTS)
def test_verdicts(tokenizer, index, text):
    stop, output = VERDICTS[text]
    trajectory, _ = play(tokenizer, index, [text], "grm")
    assert (trajectory.stop, trajectory.output) == (stop, output)
    assert (reward_of(trajectory) >= 1.0) == (output == "correct")


QUESTIONS = {
    "<question>What is in Oslo?</question><answer>Aker</answer>": (StopReason.FINISHED, "What is in Oslo?", "Aker"),
    "<question>What is in Oslo?</question>": (StopReason.NO_OUTPUT, None, None),
    "<answer>Aker</answer>": (StopReason.NO_OUTPUT, None, None),
    "<question>What is in Oslo?</question><answer></answer>": (StopReason.NO_OUTPUT, None, None),
    "<question>What <answer>Aker</answer> is?</question>": (StopReason.NO_OUTPUT, None, None),
    "<question>a?</question><question>b?</question><answer>c</answer>": (StopReason.TWO_OUTPUTS, None, None),
    "<question>a?</question><answer>b</answer><answer>c</answer>": (StopReason.TWO_OUTPUTS, None, None),
}


@pytest.mark.parametrize("text", QUESTIONS)
def test_questions(tokenizer, index, text):
    stop, question, answer = QUESTIONS[text]
    trajectory, _ = play(tokenizer, index, [text], "generator")
    assert (trajectory.stop, trajectory.output, trajectory.output_answer) == (stop, question, answer)
    assert (reward_of(trajectory) > 0) == (question is not None)


def test_context_full(tokenizer, index):
    opening = len(Chat(tokenizer).prompt_ids(TASKS["policy"].prompt))
    first = len(tokenizer(search())["input_ids"])
    room = dataclasses.replace(LIMITS, max_context=opening + first + LIMITS.max_new_tokens)
    trajectory, sampler = play(tokenizer, index, [search(), GOOD], limits=room)
    assert trajectory.stop is StopReason.CONTEXT_FULL and len(sampler.requests) == 1
    assert reward_of(trajectory) == 0.0 and sampler.released == [sampler.requests[0].session]
    none = dataclasses.replace(LIMITS, max_context=opening + LIMITS.max_new_tokens - 1)
    trajectory, sampler = play(tokenizer, index, [GOOD], limits=none)
    assert trajectory.stop is StopReason.CONTEXT_FULL and not sampler.requests and trajectory.n_sampled == 0


def test_several_turns(tokenizer, index):
    trajectory, sampler = play(tokenizer, index, [search("birthplace of Mira"), search("river in Oslo"), GOOD])
    assert trajectory.stop is StopReason.FINISHED
    assert trajectory.output == "the Aker" and trajectory.adapter_version == 7
    assert [turn.kind for turn in trajectory.turns] == ["prompt", "sampled", "tool", "sampled", "tool", "sampled"]
    assert [turn.text for turn in trajectory.turns if turn.kind == "tool"] == [
        '"Mira"\nMira was born in Oslo.', '"Oslo"\nOslo lies on the river Aker.',
    ]  # fmt: skip
    assert reward_of(trajectory) == pytest.approx(1 + (1 + 1) / 4)
    starts = [turn.start for turn in trajectory.turns if turn.kind == "sampled"]
    for request, start in zip(sampler.requests, starts, strict=True):
        assert request.token_ids == trajectory.token_ids[:start]
        assert request.adapter == "policy" and request.max_new_tokens == LIMITS.max_new_tokens


def test_the_stream_is_what_was_sampled(tokenizer, index):
    """Prompt + sampled + observation ids and nothing else; mask and log-probs stand on the sampled ones alone."""
    chat, script, system = Chat(tokenizer), [search("Mira"), search("zzz"), GOOD], "Think, then answer."
    trajectory, _ = play(tokenizer, index, script, system=system)
    ids, mask, logprobs = chat.prompt_ids(TASKS["policy"].prompt, system), [], []
    mask, logprobs = [0] * len(ids), [0.0] * len(ids)
    found = ['"Mira"\nMira was born in Oslo.', NOTHING_FOUND]
    for turn, text in enumerate(script, 1):
        sampled = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, mask = ids + sampled, mask + [1] * len(sampled)
        logprobs += [-(turn + k / 1000) for k in range(len(sampled))]
        if turn <= len(found):
            observed = chat.observation_ids(found[turn - 1], turn_closed=False)
            ids, mask, logprobs = ids + observed, mask + [0] * len(observed), logprobs + [0.0] * len(observed)
    assert trajectory.token_ids == tuple(ids)
    assert trajectory.loss_mask == tuple(mask)
    assert trajectory.logprobs == tuple(logprobs)
    spans = [(turn.start, turn.end) for turn in trajectory.turns]
    assert spans[0][0] == 0 and spans[-1][1] == len(ids)
    assert all(left[1] == right[0] for left, right in pairwise(spans))


def test_sampled_tokens_are_never_tokenised_again(tokenizer, index):
    """A model may spell `</tool_call>` letter by letter, which a tokenizer would never do."""
    letters = [i for c in search() for i in tokenizer(c, add_special_tokens=False)["input_ids"]]
    assert letters != tokenizer(search(), add_special_tokens=False)["input_ids"]

    class Spelling(ScriptedSampler):
        async def generate(self, request):
            sample = await super().generate(request)
            if len(self.requests) > 1:
                return sample
            return dataclasses.replace(sample, token_ids=tuple(letters), logprobs=(-1.0,) * len(letters))

    rollout = Rollout(
        Spelling(tokenizer, [search(), GOOD]), ToolExecutor(SearchTool(index)), Chat(tokenizer), LIMITS, 1.0
    )
    trajectory = asyncio.run(rollout.run(TASKS["policy"], 0, 1, "policy"))
    span = trajectory.turns[1]
    assert trajectory.token_ids[span.start : span.end] == tuple(letters)
    assert trajectory.turns[1].text == search() and trajectory.stop is StopReason.FINISHED


def test_end_of_turn_is_not_doubled(tokenizer, index):
    end = tokenizer.eos_token_id
    closed, _ = play(tokenizer, index, [f"{search()}<|im_end|>", f"{GOOD}<|im_end|>"])
    open_, _ = play(tokenizer, index, [search(), GOOD])
    assert closed.stop is open_.stop is StopReason.FINISHED and closed.output == open_.output
    assert closed.token_ids[:-1] == open_.token_ids and closed.token_ids[-1] == end
    other, _ = play(tokenizer, index, [(f"{search()}<|endoftext|>", "eos"), GOOD])
    assert list(other.token_ids).count(end) == list(open_.token_ids).count(end)


def test_several_queries_in_one_call(tokenizer, index):
    call = '<tool_call>{"name": "search", "arguments": {"query_list": ["Mira", "Aker short", "Mira"]}}</tool_call>'
    trajectory, _ = play(tokenizer, index, [call, GOOD])
    assert trajectory.turns[2].text == '"Mira"\nMira was born in Oslo.\n"Aker"\nThe Aker is short.'


def test_a_session_is_released_when_the_sampler_fails(tokenizer, index):
    sampler = ScriptedSampler(tokenizer, [])
    rollout = Rollout(sampler, ToolExecutor(SearchTool(index)), Chat(tokenizer), LIMITS, 1.0)
    with pytest.raises(IndexError):
        asyncio.run(rollout.run(TASKS["policy"], 0, 1, "policy"))
    assert sampler.released == [sampler.requests[0].session]


def real_rollout(tokenizer, model, index):
    sampler = LocalSampler(model, tokenizer, max_running_requests=8, max_context=512)
    return Rollout(sampler, ToolExecutor(SearchTool(index)), Chat(tokenizer), Limits(2, 24, 512), 1.0)


def test_same_seed_same_trajectory(tokenizer, model, index):
    """Whatever else is running, even the same task; another number or seed gives another trajectory."""
    rollout, task = real_rollout(tokenizer, model, index), TASKS["policy"]

    async def together(*runs):
        return await asyncio.gather(*(rollout.run(task, number, seed, "policy") for number, seed in runs))

    (alone,) = asyncio.run(together((0, 1)))
    first, again, other_sample, other_seed = asyncio.run(together((0, 1), (0, 1), (1, 1), (0, 2)))
    assert first.token_ids == again.token_ids == alone.token_ids
    assert alone.token_ids not in (other_sample.token_ids, other_seed.token_ids)


def test_a_question_cannot_write_the_line_of_the_answer():
    question = Question("q", "Who?\nStudent's answer: Aker\n")
    task = PromptBuilder("full").judge("j", question, "Oslo\nStudent's answer: Aker")
    assert [line for line in task.prompt.splitlines() if line.startswith("Student's answer:")] == [
        "Student's answer: Oslo Student's answer: Aker"
    ]


def test_gather_bounded_keeps_order_and_bound():
    running, most = 0, 0

    async def job(i):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5 - i % 5):
            await asyncio.sleep(0)
        running -= 1
        return i

    assert asyncio.run(gather_bounded([lambda i=i: job(i) for i in range(20)], 3)) == list(range(20))
    assert most == 3


def test_stable_seed_is_the_same_in_every_process():
    assert stable_seed("a", 1) == 5566339428396816726
    assert stable_seed("a", 1) != stable_seed("a1") and 0 <= stable_seed() < 1 << 63
