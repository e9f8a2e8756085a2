"""Every number of the original ASL (arXiv 2510.14253 and its code) has its place: a recipe entry, or a deviation."""

import math
from importlib.resources import files

import pytest

from aslfast import rewards
from aslfast.config import about_recipe, load_recipe
from aslfast.core import Question, StopReason, Task, Trajectory, Turn
from aslfast.data.topics import read_topics
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.parsing import STOP_TEXTS
from aslfast.rounds.schedule import plateaued

ASL = load_recipe("asl-qwen2.5-7b")
TEXT = (files("aslfast.config") / "recipes" / "asl-qwen2.5-7b.toml").read_text(encoding="utf-8")
NUMBERS = {
    "generator.prompts_per_step": 32, "grm.prompts_per_step": 32, "policy.prompts_per_step": 32,
    "generator.group_size": 4, "grm.group_size": 4,
    "policy.group_size": 4, "loss.dual_clip": 3.0, "loss.kl_coef": 0.0, "sampler.max_turns": 9,
    "sampler.max_new_tokens": 2048, "sampler.max_context": 10240, "sampler.temperature": 1.0, "tool.top_k": 3,
    "generator.rollouts_per_question": 10, "generator.self_checks": 5, "generator.min_acceptance": 0.8,
    "generator.reward": "entropy",
    "generator.target_questions": (2000,), "grm.label": "self", "grm.plateau_window": 200, "policy.plateau_window": 400,
    "policy.verdicts_per_answer": 1, "policy.reward": "majority",
    "format_weight": 1.0, "phases": ("generator", "grm", "policy"),
    "model.path": "Qwen2.5-7B-Instruct",
}  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_the_recipe_has_the_original_number(key):
    value = ASL
    for part in key.split("."):
        value = getattr(value, part)
    assert value == NUMBERS[key]


@pytest.mark.parametrize(
    "number, original",
    [(1, "PPO with GAE"), (2, "full fine-tuning"), (3, "1e-6"), (5, "0.001"), (7, "30000"), (9, "73"), (13, "1%")],
)
def test_what_differs_is_a_stated_deviation(number, original):
    """The original's figure stands in the deviation's own words."""
    assert original in about_recipe("asl-qwen2.5-7b").deviations[number - 1]


def test_sources_of_questions():
    """73 topics first, then width, then depth; harder from half right on, easier below."""
    assert len(read_topics("general")) == 73
    assert ASL.generator.source[0] == "topic" and list(ASL.generator.source[1:]) == sorted(
        ASL.generator.source[1:], reverse=True
    )
    old = Question("q", "which?", ("Oslo",), 2)
    hops = {accuracy: PromptBuilder("full").variant("g", old, accuracy, "depth").hops for accuracy in (0.49, 0.5)}
    assert hops == {0.49: 1, 0.5: 3}


def test_limits_of_a_question():
    assert rewards.valid_question("Who is it?") and not rewards.valid_question("Who is it")
    assert len("Who is it?") == 10 and not rewards.valid_question("Who is he"[:8] + "?")


def test_rewards_of_a_generator():
    """At most ln 2; 1 - ln 2 for a found answer; 1 - accuracy between 0 and 1."""
    assert rewards.verdict_entropy(["correct"] * 5 + ["wrong"] * 5) == pytest.approx(math.log(2))
    made = rewards.QuestionEvidence("q?", "Oslo", True, True, ("correct", "wrong", "wrong"), ("in Oslo",))
    assert rewards.GENERATOR_REWARDS["entropy+tool"](made)["tool"] == pytest.approx(1 - math.log(2))
    assert rewards.GENERATOR_REWARDS["absolute_zero"](made) == {"difficulty": pytest.approx(2 / 3)}
    assert rewards.accepted(["correct"] * 4 + ["wrong"], ASL.generator.min_acceptance)
    assert not rewards.accepted(["correct"] * 3 + ["wrong"] * 2, ASL.generator.min_acceptance)


def test_format_reward_is_a_quarter_each():
    def of(*turns):
        made = tuple(Turn(kind, 0, 0, text) for kind, text in turns)
        return rewards.format_reward(
            Trajectory(Task("t", "policy", "x"), (), (), (), made, StopReason.FINISHED, output="x")
        )

    assert of(("sampled", "<think>a</think>b")) == 0.25
    assert of(("sampled", "<think>a</think>b"), ("tool", "found"), ("sampled", "no thought")) == 0.375
    assert of(("sampled", "<think>a</think>b"), ("tool", "found"), ("sampled", "<think>a</think>")) == 0.5


def test_least_gain_of_a_plateau():
    """0.5% of the older half, over the window and over its newest half."""
    assert not plateaued([1.0] * 100 + [1.006] * 50 + [1.02] * 50, 200)
    assert plateaued([1.0] * 100 + [1.004] * 100, 200) and not plateaued([1.0] * 199, 200)


def test_stop_texts_and_variants():
    assert {"</tool_call>", "</answer>"} <= set(STOP_TEXTS)
    assert set(rewards.GRM_REWARDS) == {"tool", "thinking", "reference", "uncertain", "ranking"}
    assert "substring" in rewards.POLICY_REWARDS
