"""Rewards against independent computations: every formula written out a second way, and its properties."""

import math
import re
import string
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aslfast import rewards
from aslfast.core import StopReason, Task, Trajectory, Turn

VERDICTS = st.lists(st.sampled_from(["correct", "wrong", None]), min_size=1, max_size=12)
TEXTS = st.text(st.sampled_from("aàthenAT .,-'?ø\n0") | st.characters(codec="utf-8"), max_size=20)


def played(*turns, role="policy", stop=StopReason.FINISHED, output="x"):
    """A trajectory of texts: ("tool", text) or what the model said."""
    made = []
    for turn in turns:
        kind, text = turn if isinstance(turn, tuple) else ("sampled", turn)
        made.append(Turn(kind, 0, 0, text))
    output = output if stop is StopReason.FINISHED else None
    return Trajectory(Task("t", role, "p"), (), (), (), tuple(made), stop, output)


def squad(text):
    """normalize_answer of SQuAD's evaluate-v1.1.py, as Search-R1 uses it."""
    no_punctuation = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", no_punctuation).split())


@given(TEXTS)
def test_normalize_is_squads_and_idempotent(text):
    once = rewards.normalize(text)
    assert rewards.normalize(once) == once
    assert once == (squad(text) or " ".join(text.lower().split()))


@pytest.mark.parametrize(
    "answer, reference, equal",
    [
        ("The Beatles!", "beatles", True),
        ("U.S.", "US", True),
        ("a  b", "B", True),
        ("Oslo", "Bergen", False),
        ("", "Oslo", False),
        ("?", "The The", False),
        ("the", "A", False),
        (None, "Oslo", False),
    ],
)
def test_exact_match(answer, reference, equal):
    assert rewards.exact_match(answer, ["nothing", reference]) is equal
    assert not rewards.exact_match(answer, [])


def test_an_oracle_says_one_spelling_or_all_or_none():
    """A text is one spelling, not its letters."""
    assert rewards.spellings("Oslo") == ("Oslo",) and rewards.spellings(("Oslo", "Oslo city")) == ("Oslo", "Oslo city")
    assert not rewards.spellings(None) and not rewards.exact_match("Oslo", rewards.spellings(()))


def test_contains_match_takes_whole_words():
    assert rewards.contains_match("It is the city of Oslo, Norway.", ["oslo"])
    assert not rewards.contains_match("Osloer", ["Oslo"])
    assert not rewards.contains_match(None, ["Oslo"]) and not rewards.contains_match("", [""])


def naive_f1(answer, reference):
    said, wanted = squad(answer).split(), squad(reference).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["oslo", "river", "aker", "north"]), max_size=6).map(" ".join)


@given(WORDS, st.lists(WORDS, max_size=3))
def test_f1(answer, references):
    wanted = max((naive_f1(answer, r) for r in references), default=0.0)
    assert rewards.f1(answer, references) == pytest.approx(wanted)


@given(VERDICTS)
def test_verdict_entropy(verdicts):
    """Against the cross-entropy of the verdicts with itself; at most ln 2, and that at p = 1/2 alone."""
    p = sum(v == "correct" for v in verdicts) / len(verdicts)
    entropy = rewards.verdict_entropy(verdicts)
    wanted = sum(-math.log(p if v == "correct" else 1 - p) for v in verdicts) / len(verdicts)
    assert entropy == pytest.approx(wanted)
    assert 0.0 <= entropy <= math.log(2)
    assert (entropy == pytest.approx(math.log(2))) == (p == 0.5)
    swapped = ["wrong" if v == "correct" else "correct" for v in verdicts]
    assert rewards.verdict_entropy(swapped) == pytest.approx(entropy)


def test_no_verdicts_no_entropy():
    assert rewards.verdict_entropy([]) == 0.0


@given(VERDICTS)
def test_majority(verdicts):
    counts = Counter(verdicts)
    winners = [v for v in ("correct", "wrong") if counts[v] > len(verdicts) - counts[v]]
    assert rewards.majority(verdicts) == (winners[0] if winners else None)


def test_majority_needs_more_than_half():
    assert rewards.majority(["correct", "wrong"]) is None
    assert rewards.majority(["correct", "correct", None, None]) is None
    assert rewards.majority([None, None, "correct"]) is None
    assert rewards.majority([]) is None
    assert rewards.majority(["wrong"]) == "wrong"


THINK = "<think>so</think>"


@pytest.mark.parametrize(
    "turns, expected",
    [
        ([f"{THINK}<answer>x</answer>"], 1 / 4),
        (["<answer>x</answer>"], 0),
        ([f"{THINK}call", ("tool", "found"), f"{THINK}<answer>x</answer>"], (1 + 1) / 4),
        (["call", ("tool", "found"), f"{THINK}<answer>x</answer>"], (1 / 2 + 1) / 4),
        (["call", ("tool", "found"), "<answer>x</answer>"], 1 / 4),
        ([f" \n{THINK}<answer>x</answer>"], 1 / 4),
        ([f"well {THINK}<answer>x</answer>"], 0),
        (["<think>so <answer>x</answer>"], 0),
        ([f"{THINK}a", ("tool", "1"), "b", ("tool", "2"), f"{THINK}<answer>x</answer>"], (2 / 3 + 1) / 4),
    ],
)
def test_format_reward(turns, expected):
    assert rewards.format_reward(played(*turns)) == pytest.approx(expected)
    for stop in set(StopReason) - {StopReason.FINISHED}:
        assert rewards.format_reward(played(*turns, stop=stop)) == 0.0


def test_policy_reward():
    answered, silent = played(f"{THINK}<answer>x</answer>"), played("", stop=StopReason.NO_OUTPUT)
    assert rewards.policy_reward(answered, ["correct"], 0.5).parts == {"judge": 1.0, "format": 0.125}
    assert rewards.policy_reward(answered, ["correct"], 0.5).total == 1.125
    for verdicts in (["wrong"], [None], ["uncertain"], [], ["correct", "wrong"], ["D"]):
        assert rewards.policy_reward(answered, verdicts, 0.0).total == 0.0
    assert rewards.policy_reward(silent, ["correct"], 0.5).total == 0.0
    assert rewards.policy_reward(silent, ["correct"], 0.5, "mean").total == 0.0


@given(VERDICTS)
def test_policy_reward_from_m_verdicts(verdicts):
    answered = played("<answer>x</answer>")
    p = sum(v == "correct" for v in verdicts) / len(verdicts)
    assert rewards.policy_reward(answered, verdicts, 0.0, "mean").parts["judge"] == pytest.approx(p)
    assert rewards.policy_reward(answered, verdicts, 0.0, "majority").parts["judge"] == (p > 0.5)


def test_policy_reward_from_grades():
    answered = played("<answer>x</answer>")
    assert rewards.policy_reward(answered, ["A", "B", "E", None], 0.0, "mean").total == pytest.approx(
        (1 + 0.8 + 0.2) / 4
    )
    assert rewards.policy_reward(answered, ["C", "C", "G"], 0.0, "majority").total == 1.0
    assert rewards.policy_reward(answered, ["A", "D"], 0.0, "majority").total == 0.0


@pytest.mark.parametrize(
    "answer, expected",
    [  # against "Oslo fjord": exact match, substring, contains, cover, F1
        ("the Oslo Fjord!", (1, 1, 1, 1, 1)),
        ("It is Oslo fjord", (0, 1, 1, 1, 2 * 2 / 6)),
        ("fjord of Oslo", (0, 0, 0, 1, 2 * 2 / 5)),
        ("Oslo fjords", (0, 1, 0, 0, 1 / 2)),
        ("Oslo", (0, 0, 0, 0, 2 / 3)),
        ("", (0, 0, 0, 0, 0)),
        (None, (0, 0, 0, 0, 0)),
    ],
)
def test_rule_rewards(answer, expected):
    stop = StopReason.NO_OUTPUT if answer is None else StopReason.FINISHED
    task = Task("t", "policy", "p", "q?", ("nothing", "Oslo fjord"))
    trajectory = Trajectory(task, (), (), (), (Turn("sampled", 0, 0, ""),), stop, answer)
    names = ("exact_match", "substring", "contains", "cover", "f1")
    given_ = [rewards.policy_reward(trajectory, [], 0.0, name).parts["rule"] for name in names]
    assert given_ == pytest.approx(expected)


MATCHES = [rewards.exact_match, rewards.contains_match, rewards.cover_match, rewards.substring_match]


@given(WORDS | TEXTS, WORDS | TEXTS)
def test_matches_imply_each_other(answer, reference):
    """Exact match -> whole words in order -> whole words; and letters in order. F1 is symmetric and 1 for a match."""
    exact, contains, cover, substring = (match(answer, [reference]) for match in MATCHES)
    if rewards.normalize(reference):
        assert exact <= contains <= cover and contains <= substring
    forward, back = rewards.f1(answer, [reference]), rewards.f1(reference, [answer])
    assert forward == back and 0.0 <= forward <= 1.0
    if exact and rewards.normalize(reference):
        assert forward == 1.0


def test_grm_reward():
    judged = played("<verdict>wrong</verdict>", role="grm", output="wrong")
    assert rewards.grm_reward(judged, "wrong", 0.0).parts == {"match": 1.0, "format": 0.0}
    assert rewards.grm_reward(judged, "correct", 0.0).total == 0.0
    silent = played("", role="grm", stop=StopReason.NO_OUTPUT)
    assert rewards.grm_reward(silent, "wrong", 1.0).total == 0.0
    unsure = played("", role="grm", output="uncertain")
    assert [rewards.grm_reward(unsure, "wrong", 0.0, v).total for v in ("tool", "uncertain", "ranking")] == [0, 0.5, 0]


def test_abstaining_is_worth_it_where_the_judge_knows_nothing():
    """At a belief b in its better guess: a guess earns b, abstaining 1/2."""
    pay = rewards.GRM_REWARDS["uncertain"]
    for belief in (0.5, 0.6, 0.9):
        guess = belief * pay("correct", "correct") + (1 - belief) * pay("correct", "wrong")
        assert (guess > pay("uncertain", "correct")) == (belief > 0.5) and pay("uncertain", "wrong") == 0.5


def test_the_best_grade_is_the_believed_chance():
    """Expected reward is greatest at the grade whose score is nearest to the belief: the score is proper."""
    pay = rewards.GRM_REWARDS["ranking"]
    for belief in (0.0, 0.15, 0.35, 0.55, 0.72, 0.95, 1.0):
        expected = {g: belief * pay(g, "correct") + (1 - belief) * pay(g, "wrong") for g in "ABCDEFG"}
        best = max(expected, key=lambda g: expected[g])
        assert best == min("ABCDEFG", key=lambda g: abs(rewards.verdict_score(g) - belief))
    assert pay(None, "wrong") == 0.0 == pay("correct", "correct")


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 100))
@example(25, 7, 28)
def test_gate_in_whole_numbers(n, hits, hundredths):
    """hits >= fraction * n decided without rounding: 0.28 * 25 is a little above 7 in floating point."""
    verdicts = ["correct"] * min(hits, n) + [None] * (n - min(hits, n))
    assert rewards.accepted(verdicts, hundredths / 100) == (100 * min(hits, n) >= hundredths * n)


def test_without_checks_the_gate_is_open():
    assert rewards.accepted([], 0.8)


def test_rewards_need_no_torch():
    code = "import sys, aslfast.rewards; assert not {'torch', 'jinja2', 'pyarrow', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
