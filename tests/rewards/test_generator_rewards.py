"""The generator's rewards: at known difficulties, within their bounds, and nothing for what is invalid or refused."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast import rewards
from aslfast.core import StopReason, Task, Trajectory, Turn


def evidence(correct=5, of=10, **known):
    verdicts = ("correct",) * correct + ("wrong",) * (of - correct)
    known = {"question": "What is it called?", "answer": "Aker", "valid": True, "accepted": True, **known}
    return rewards.QuestionEvidence(verdicts=verdicts, batch=(known["question"],), **known)


def total(name, **known):
    return sum(rewards.GENERATOR_REWARDS[name](evidence(**known)).values())


@pytest.mark.parametrize(
    "name, by_correct",  # of 10 attempts, 0, 1, 5, 9 and 10 passed by the judge
    [
        ("entropy", (0, 0.3250829734, math.log(2), 0.3250829734, 0)),
        ("entropy_bits", (0, 0.4689955936, 1, 0.4689955936, 0)),
        ("absolute_zero", (0, 0.9, 0.5, 0.1, 0)),
        ("ssp", (1, 0.9, 0.5, 0.1, 0)),
        ("dr_zero", (0, 1, 5 / 9, 1 / 9, 0)),
        ("r_zero", (-1, -0.9, -0.5, -0.9, -1)),  # alone in its batch: a fraction of 1
        ("r_zero_paper", (0, 0, 0, 0, 0)),
    ],
)
def test_generator_rewards_by_difficulty(name, by_correct):
    assert [total(name, correct=k) for k in (0, 1, 5, 9, 10)] == pytest.approx(by_correct)


INVALID_REWARDS = {"r_zero": -1.0}  # alone in its batch


@pytest.mark.parametrize("name", rewards.GENERATOR_REWARDS)
@given(data=st.data())
def test_no_question_is_paid_beyond_its_bounds(name, data):
    """From 0 to 1 (R-Zero: from -1 to 1/2), and nothing where it is invalid or not accepted by the judge."""
    of = data.draw(st.integers(1, 10))
    texts = st.sampled_from(["Aker", "Oslo", "the Aker runs", ""])
    known = {
        "correct": data.draw(st.integers(0, of)), "of": of, "valid": data.draw(st.booleans()),
        "accepted": data.draw(st.booleans()), "answer": data.draw(texts), "old_answer": data.draw(texts),
        "tool_texts": tuple(data.draw(st.lists(texts, max_size=2))),
    }  # fmt: skip
    rewarded = total(name, **known)
    assert (-2 if name == "r_zero" else 0) <= rewarded <= 1 + 1e-12
    if not (known["valid"] and known["accepted"]):
        assert rewarded == INVALID_REWARDS.get(name, 0.0)


def test_entropy_with_the_tool():
    found = {"tool_texts": ("nothing", "The river is the AKER."), "answer": "the Aker"}
    assert total("entropy+tool", **found) == pytest.approx(1.0)
    assert total("entropy+tool", tool_texts=("Akers",)) == pytest.approx(math.log(2))
    assert total("entropy+tool", correct=0, **found) == pytest.approx(1 - math.log(2))
    assert total("entropy+tool", accepted=False, **found) == 0.0


@pytest.mark.parametrize(
    "found, answer, question, thirds",
    [
        (True, "Aker", "Which river?", 3),
        (False, "Aker", "Which river?", 2),
        (True, "Oslo", "Which river?", 2),
        (True, "Aker", "Which river of Oslo?", 2),
        (False, "old Oslo", "Which river of Oslo?", 0),
    ],
)
def test_tool_gt(found, answer, question, thirds):
    made = {"answer": answer, "question": question, "old_answer": "Oslo", "tool_texts": (answer,) if found else ("",)}
    assert total("tool_gt", **made) == pytest.approx(thirds / 3)


def test_r_zero_with_a_batch():
    """Three of four questions are one cluster."""
    batch = ("what is the river of old Oslo ?", "what is the river of old Bergen ?", "what is the river of old Rome ?")
    batch = (*batch, "who wrote it")
    assert rewards.repetition_shares(batch) == (0.75, 0.75, 0.75, 0.25)
    made = evidence(question=batch[0])
    made = rewards.QuestionEvidence(made.question, "x", True, True, made.verdicts, batch=batch)
    assert rewards.GENERATOR_REWARDS["r_zero"](made) == {"uncertainty": 0.5, "repetition": -0.75}
    assert rewards.GENERATOR_REWARDS["r_zero_paper"](made) == {"uncertainty": 0.25}


def test_sentence_bleu():
    """Modified precisions, smoothing and brevity penalty counted by hand."""
    said, reference = ["the", "cat", "sat", "on", "the", "mat"], ["the", "cat", "is", "on", "the", "mat"]
    precisions = [5 / 6, 3 / 5, 1 / 4, 0.1 / 3]
    assert rewards.sentence_bleu(said, reference) == pytest.approx(math.prod(precisions) ** (1 / 4))
    assert rewards.sentence_bleu(said[:3], said) == pytest.approx(math.exp(1 - 6 / 3) * (1 * 1 * 1 * 0.1) ** (1 / 4))
    assert rewards.sentence_bleu(said, said) == pytest.approx(1.0)
    assert rewards.sentence_bleu(["a"], ["b"]) == 0.0


def naive_shares(questions):
    """Average linkage from its definition: join the two clusters of the least mean distance while it is below 1/2."""
    clusters = [[i] for i in range(len(questions))]
    split = [q.split() for q in questions]

    def apart(left, right):
        pairs = [(min(i, j), max(i, j)) for i in left for j in right]
        return sum(1 - rewards.sentence_bleu(split[i], split[j]) for i, j in pairs) / len(pairs)

    while len(clusters) > 1:
        least = min((apart(c, d), i, j) for i, c in enumerate(clusters) for j, d in enumerate(clusters) if i < j)
        if least[0] >= 0.5:
            break
        clusters[least[1]] += clusters.pop(least[2])
    return {i: len(c) / len(questions) for c in clusters for i in c}


SIMILAR_WORDS = st.sampled_from(["what", "is", "the", "river", "town", "of", "old", "Oslo"])
SIMILAR = st.lists(SIMILAR_WORDS, min_size=1, max_size=9).map(" ".join)


@settings(deadline=None)
@given(st.lists(SIMILAR, min_size=1, max_size=7, unique=True))
def test_repetition_shares(questions):
    made = rewards.repetition_shares(tuple(questions))
    assert dict(enumerate(made)) == naive_shares(questions)


def test_generator_reward():
    turns = (Turn("sampled", 0, 0, "<think>so</think><question>..</question>"),)
    task = Task("t", "generator", "p")
    written = Trajectory(task, (), (), (), turns, StopReason.FINISHED, "What is it called?", "Aker")
    even, yes = ["correct", "wrong", None, "correct"], ["correct"] * 5

    def rewarded(verdicts, checks, trajectory=written, **named):
        made = rewards.question_evidence(trajectory, verdicts, checks, 0.8)
        return rewards.generator_reward(trajectory, made, 1.0, **named).parts

    assert rewarded(even, yes) == {"entropy": pytest.approx(1.0), "format": 0.25}
    assert rewarded(even, yes, reward="entropy") == {"entropy": pytest.approx(math.log(2)), "format": 0.25}
    p = 1 / 4
    h = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    assert rewarded(["correct", None, None, "wrong"], yes)["entropy"] == pytest.approx(h)
    assert rewarded(["correct"] * 4, yes)["entropy"] == 0.0
    assert rewarded(even, [*yes[:3], None, "wrong"]) == {"entropy": 0.0, "format": 0.25}
    for invalid in (dataclasses.replace(written, output="What is"), dataclasses.replace(written, output_answer=None)):
        assert rewarded(even, yes, invalid) == {"entropy": 0.0, "format": 0.0}


def test_question_evidence():
    """Tool texts, and what the task asked to vary."""
    task = Task("t", "generator", "p", "Old question?", ("Oslo",))
    turns = (Turn("sampled", 0, 0, "call"), Turn("tool", 0, 0, "found"), Turn("sampled", 0, 0, "done"))
    written = Trajectory(task, (), (), (), turns, StopReason.FINISHED, "Which river is it?", "Aker")
    made = rewards.question_evidence(written, ["correct"], ["correct", "wrong"], 0.5)
    assert made == rewards.QuestionEvidence(
        "Which river is it?", "Aker", True, True, ("correct",), ("found",), "Old question?", "Oslo",
        ("Which river is it?",),
    )  # fmt: skip
