"""Templates that open `<think>` in the prompt: a turn closes it, earns what any turn earns, and gains by no second."""

import asyncio

import pytest

from aslfast import rewards
from aslfast.core import Question, StopReason
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from tests.support.prompts.chat_templates import DEEPSEEK, OPENS_THINKING, by_bytes
from tests.support.scripted_sampler import ScriptedSampler

CALL = '<tool_call>{"name": "search", "arguments": {"query": "born Oslo"}}</tool_call>'
ANSWER = "<answer>Aker</answer>"
TASK = PromptBuilder("compact").policy("t", Question("q", "Which river?", ("Aker",)))


def play(index, template, *script):
    tokenizer = by_bytes(template)
    sampler, tool = ScriptedSampler(tokenizer, script), ToolExecutor(SearchTool(index, top_k=1))
    return asyncio.run(Rollout(sampler, tool, Chat(tokenizer), Limits(3, 200, 4000), 1.0).run(TASK, 0, 1, None))


@pytest.mark.parametrize("template", [OPENS_THINKING, DEEPSEEK])
@pytest.mark.parametrize(
    "turn, output, reward",
    [
        (f"so</think>{ANSWER}", "Aker", 1 / 4),
        (f"\nso\n</think>\n\n{ANSWER}", "Aker", 1 / 4),
        (f"<think>so</think>{ANSWER}", "Aker", 0),  # a second block, in the one that the template opened
        (f"so <think>so</think></think>{ANSWER}", "Aker", 0),
        (f"so {ANSWER}", None, 0),  # all of it is thinking
        (f"so </think>{ANSWER}<think>", "Aker", 1 / 4),
        (f"{CALL}</think>{ANSWER}", "Aker", 1 / 4),  # a call in the thinking is none
    ],
)
def test_a_turn_closes_what_the_template_opened(index, template, turn, output, reward):
    trajectory = play(index, template, turn)
    assert trajectory.output == output and rewards.format_reward(trajectory) == reward
    assert trajectory.turns[1].text == turn  # as it was sampled
    if output is None:
        assert trajectory.stop is StopReason.NO_OUTPUT


def test_the_whole_format_reward_with_a_search(index):
    """DeepSeek's template opens the thinking in the prompt alone, not after a tool's output."""
    good = play(index, OPENS_THINKING, f"I look</think>{CALL}", f"found</think>{ANSWER}")
    assert rewards.format_reward(good) == 1 / 2 and good.tool_calls == 1
    good = play(index, DEEPSEEK, f"I look</think>{CALL}", f"<think>found</think>{ANSWER}")
    assert rewards.format_reward(good) == 1 / 2
    half = play(index, DEEPSEEK, f"I look</think>{CALL}", f"found</think>{ANSWER}")
    assert rewards.format_reward(half) == (1 / 2 + 1) / 4
