"""Prompts show what their role needs and nothing else; tasks keep what later stages compare with."""

import pytest

from aslfast.core import Question
from aslfast.prompts.builder import JUDGE_PROMPTS, MAX_ANSWER_CHARS, PromptBuilder

OLD = Question("q", "Which old river?", ("Aker", "the Aker"), 2)


@pytest.mark.parametrize("prompt_set", ["full", "compact"])
def test_prompts_show_what_their_variant_needs(prompt_set):
    """Question and answer once each; the reference in the variant of that name alone; the old question in a new one."""
    asked = Question("q", "Which {answer}?", ("Eva",))
    for variant in JUDGE_PROMPTS:
        prompt = PromptBuilder(prompt_set, variant).judge("j", asked, "Ada").prompt
        assert prompt.count("Which {answer}?") == 1 and prompt.count("Ada") == 1
        assert prompt.count("Eva") == (variant == "reference")
    for kind, accuracy, hops in (("depth", 0.5, 3), ("depth", 0.4, 1), ("width", 0.9, 2), ("width", 0.0, 2)):
        task = PromptBuilder(prompt_set).variant("g", OLD, accuracy, kind)
        assert "Aker" in task.prompt and str(hops) in task.prompt
        assert ("Which old river?" in task.prompt) == (prompt_set == "full")  # compact: the old answer is the topic
        assert (task.hops, task.question, task.references) == (hops, "Which old river?", ("Aker",))


def test_variants_are_harder_or_easier_within_bounds():
    builder = PromptBuilder("full")
    kinds = [(kind, accuracy) for kind in ("depth", "width") for accuracy in (0.0, 1.0)]
    prompts = {(kind, a): builder.variant("g", OLD, a, kind).prompt for kind, a in kinds}
    assert len(set(prompts.values())) == 4
    assert "harder" in prompts["depth", 1.0] and "easier" in prompts["width", 0.0]
    first = Question("q", "Which old river?", ("Aker",), 1)
    assert builder.variant("g", first, 0.0, "depth").hops == 1  # one hop at least
    assert builder.variant("g", OLD, 1.0, "depth", max_hops=2).hops == 2


def test_tasks_carry_the_question():
    asked = Question("q", "Who?\nAnswer: me", ("Ada",), 3, fold=1)
    policy = PromptBuilder("full").policy("p", asked)
    assert (policy.question, policy.references, policy.hops, policy.fold) == (asked.text, ("Ada",), 3, 1)
    judge = PromptBuilder("full").judge("j", asked, "x" * 600, "wrong", fold=2)
    assert (judge.question, judge.references, judge.hops, judge.fold) == (asked.text, ("wrong",), 3, 2)
    assert judge.prompt.count("x" * MAX_ANSWER_CHARS) == 1 and "x" * (MAX_ANSWER_CHARS + 1) not in judge.prompt
    assert "Who? Answer: me" in judge.prompt  # on one line
    topic = PromptBuilder("compact").generator("g", "rivers", 2)
    assert topic.role == "generator" and topic.hops == 2 and "rivers" in topic.prompt and topic.references == ()
