"""Near-duplicate questions: what counts as one, that none is missed, and what it costs for a whole run's pool."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast import rewards


@pytest.mark.parametrize(
    "left, right, near",
    [
        ("What is the capital of France?", "what's the capital in France", True),
        ("In what year did Tesla die?", "What year did Tesla die?", True),
        ("Who wrote the novel Moby Dick?", "Who was it that wrote the novel Moby Dick?", True),
        ("What is the capital of France?", "What is the capital of Norway?", False),
        ("When was Barack Obama born?", "Where was Barack Obama born?", False),
        ("what is the river of the home of Mira Dolmi?", "what is the home of the river of Mira Dolmi?", False),
        ("what is the teacher of the teacher of Nida Kurpam?", "what is the teacher of Nida Kurpam?", False),
        ("Who won the Nobel Prize in Physics 1921 in Stockholm of all prizes?",
         "Who won the Nobel Prize in Physics 1922 in Stockholm of all prizes?", False),
        ("?!", "?!", True),
        ("?!", "!!", False),
    ],
)  # fmt: skip
def test_near_duplicates(left, right, near):
    assert (rewards.question_similarity(left, right) >= 0.85) is near
    assert rewards.question_similarity(left, right) == rewards.question_similarity(right, left)
    assert rewards.distinct_questions([left, "Something else?", right]) == ([0, 1] if near else [0, 1, 2])


ASKED_WORDS = st.sampled_from(["who", "wrote", "painted", "Oslo", "Aker", "old", "new", "river", "7", "8"])
ASKED = st.lists(ASKED_WORDS, max_size=9).map(" ".join)


@settings(deadline=None)
@given(st.lists(ASKED, max_size=25), st.sampled_from([0.5, 0.8, 0.85, 1.0]))
def test_distinct_questions_misses_nothing(questions, near):
    """The prefix filter finds what comparing every pair finds."""
    kept = []
    for i, question in enumerate(questions):
        if all(rewards.question_similarity(question, questions[j]) < near for j in kept):
            kept.append(i)
    assert rewards.distinct_questions(questions, near) == kept


def test_distinct_questions_of_a_whole_run():
    """30,000 questions with a duplicate of every tenth: found, and in far less than the minutes of all pairs."""
    rng = random.Random(0)
    words = [f"word{i}" for i in range(3000)]
    asked = [f"who is the {' '.join(rng.sample(words, 8))}" for _ in range(27000)]
    started = time.perf_counter()
    kept = rewards.distinct_questions([*asked, *(f"and {question}?" for question in asked[::9])])
    assert kept == list(range(27000)) and time.perf_counter() - started < 60
