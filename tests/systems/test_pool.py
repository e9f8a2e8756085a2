"""The pool draws by priority and forgets what it is told to; the replay keeps the newest that are worth it."""

import math
import random
from collections import Counter

import pytest

from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.pool import Pool, Replay


def question(name):
    return Question(name, f"What is {name}?", (name,))


def filled(**priorities):
    pool = Pool()
    for name, priority in priorities.items():
        pool.add(question(name), priority)
    return pool


def trajectory(text, tokens=(1, 2), role="policy"):
    return Trajectory(Task(f"t-{text}", role, "", text), tokens, (0, 1), (0.0, -0.5), (), StopReason.FINISHED, "out")


def group(text, *totals):
    played = tuple(trajectory(text, (1, i)) for i in range(len(totals)))
    return Group(played, tuple(Reward({"r": total}) for total in totals))


def shares(sharpness, n=4000, **priorities):
    """How often each question comes first."""
    rng = random.Random(0)
    counts = Counter(filled(**priorities).draw(1, rng, sharpness)[0].id for _ in range(n))
    return {name: counts[name] / n for name in priorities}


def test_a_draw_is_in_proportion_to_the_priorities():
    found = shares(None, a=1.0, b=3.0, c=0.0)
    assert found["a"] == pytest.approx(0.25, abs=0.03) and found["c"] == 0.0


def test_a_sharp_draw_is_a_softmax():
    found, total = shares(2.0, a=1.0, b=0.0), math.exp(2.0) + 1.0
    assert found["a"] == pytest.approx(math.exp(2.0) / total, abs=0.03)


def test_a_draw_is_without_replacement_and_counted():
    pool = filled(a=1.0, b=2.0, c=0.5)
    drawn = pool.draw(5, random.Random(1))
    assert sorted(q.id for q in drawn) == ["a", "b", "c"] and {i.drawn for i in pool.items.values()} == {1}


def test_the_same_content_gives_the_same_draw_in_any_order():
    one, other = filled(a=1.0, b=2.0, c=0.5), filled(c=0.5, b=2.0, a=1.0)
    assert one.draw(2, random.Random(3)) == other.draw(2, random.Random(3))


def test_a_question_is_there_once_and_keeps_its_count():
    pool = filled(a=1.0)
    pool.draw(1, random.Random(0))
    pool.add(Question("other", "what is A?"), 5.0)  # the same, normalised
    (item,) = pool.items.values()
    assert (item.question.id, item.priority, item.drawn) == ("a", 5.0, 1)


def test_pruning_and_reset():
    pool = filled(a=0.9, b=0.1)
    pool.prune(lambda item: item.priority < 0.9)
    assert [item.question.id for item in pool.items.values()] == ["b"]
    pool.reset()
    assert pool.draw(3, random.Random(0)) == []


def test_the_replay_keeps_successes_with_their_log_probs():
    replay = Replay()
    replay.add([group("Q one", 0.0, 1.0)], 1, lambda _, reward: reward.total > 0.5)
    ((kept, reward),) = replay.of(group("q ONE", 0.0))
    assert kept.token_ids == (1, 1) and kept.logprobs == (0.0, -0.5) and reward.total == 1.0
    assert replay.of(group("another", 0.0)) == []


def test_the_replay_forgets_the_oldest_and_the_too_old():
    replay = Replay(size=2, max_age=2)
    for step in (1, 2, 3):
        replay.add([group(f"q{step}", 1.0)], step, lambda *_: True)
    assert sorted(item.step for items in replay.kept.values() for item in items) == [2, 3]
    replay.add([], 5, lambda *_: True)
    assert [item.step for items in replay.kept.values() for item in items] == [3]
    assert replay.draw(9, random.Random(0))[0][0].task.question == "q3"
