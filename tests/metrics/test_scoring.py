"""What is measured against the truth: accuracies by role and question, intervals, paired differences."""

import itertools
import math

import numpy as np
import pytest

from aslfast.core import StopReason, Task, Trajectory, Turn
from aslfast.metrics import scoring
from aslfast.metrics.bootstrap import bootstrap_mean, paired_difference
from aslfast.metrics.scoring import Proportion


@pytest.mark.parametrize(
    "hits, n, low, high",
    [  # R: prop.test(hits, n, correct = FALSE)$conf.int; Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_interval(hits, n, low, high):
    share = Proportion.of(hits, n)
    assert share.value == hits / n and share.n == n
    assert share.low == pytest.approx(low, abs=6e-5) and share.high == pytest.approx(high, abs=6e-5)


def test_wilson_is_where_the_score_test_turns():
    """The bounds solve |p - q| = z sqrt(q (1 - q) / n)."""
    for hits, n in ((3, 10), (70, 300), (150, 300)):
        share = Proportion.of(hits, n)
        for q in (share.low, share.high):
            assert abs(hits / n - q) == pytest.approx(scoring.Z95 * math.sqrt(q * (1 - q) / n))
    assert (Proportion.of(0, 0).low, Proportion.of(0, 0).high) == (0.0, 1.0)
    assert str(Proportion.of(1, 2)) == "0.500 [0.095, 0.905]"


def ended(output, references=("Oslo",), hops=1, role="policy", answer=None, searches=1):
    stop = StopReason.NO_OUTPUT if output is None else StopReason.FINISHED
    turns = tuple(Turn("tool", 0, 0, "found") for _ in range(searches))
    return Trajectory(Task("t", role, "p", "q?", tuple(references), hops), (), (), (), turns, stop, output, answer)


def test_policy_scores():
    one_hop = [ended("oslo!", hops=1), ended("in Oslo", hops=1, searches=3)]
    three_hops = [ended("Bergen", hops=3), ended(None, hops=3, searches=0)]
    scores = scoring.policy_scores([*one_hop, *three_hops, ended("Rome", ("Bergen", "rome"), hops=0)])
    assert scores["policy_accuracy"] == 2 / 5 and scores["n_eval"] == 5
    assert scores["policy_interval"] == [Proportion.of(2, 5).low, Proportion.of(2, 5).high]
    by_hops = {hops: (part["accuracy"], part["n"]) for hops, part in scores["by_hops"].items()}
    assert by_hops == {"1": (0.5, 2), "3": (0.0, 2)}
    assert scores["contains"] == 3 / 5
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 0 + 0 + 1) / 5)
    assert scores["searches"] == 6 / 5
    assert scores["stops"] == {"finished": 4, "no_output": 1}


def test_grm_scores_are_balanced():
    """Three right answers of which two are passed, one wrong answer that is caught: (2/3 + 1) / 2, not 3/4."""
    judged = [ended(v, ("correct",), role="grm") for v in ("correct", "correct", "wrong")]
    scores = scoring.grm_scores([*judged, ended("wrong", ("wrong",), role="grm")])
    assert scores["grm_true_positive_rate"] == pytest.approx(2 / 3) and scores["grm_true_negative_rate"] == 1.0
    assert scores["grm_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["grm_interval"][0] < scores["grm_accuracy"] < scores["grm_interval"][1]
    always = [ended("correct", (label,), role="grm") for label in ("correct", "wrong") * 20]
    assert scoring.grm_scores(always)["grm_accuracy"] == 0.5
    silent = [ended(None, (label,), role="grm") for label in ("correct", "wrong")]
    assert scoring.grm_scores(silent)["grm_accuracy"] == 0.0


def test_generator_scores():
    truth = {"what is the river of Oslo?": "Aker", "what is the job of Mira?": "baker"}
    written = [
        ended("what is the river of Oslo?", (), role="generator", answer="the Aker"),
        ended("what is the job of Mira?", (), role="generator", answer="mason"),
        ended("what is the colour of Mira?", (), role="generator", answer="red"),
        ended("what is it", (), role="generator", answer="x"),
        ended(None, (), role="generator"),
    ]
    scores = scoring.generator_scores(written, truth.get)
    assert scores["solvable_share"] == 1 / 5
    assert scores["valid_share"] == 3 / 5
    assert scores["reference_right"] == pytest.approx(1 / 3)
    assert scoring.generator_scores(written[-1:], truth.get)["reference_right"] == 0.0


def test_question_scores():
    """One value a question; a cover match where the words stand apart, a substring within a word."""
    asked = ("Ada Lovelace",)
    said = ["ada lovelace", "Lovelace, that is Ada", "Adalovelaces", "Ada", None]
    scores = scoring.question_scores([ended(text, asked, searches=i) for i, text in enumerate(said)])
    assert scores["em"] == [1, 0, 0, 0, 0]
    assert scores["cover_em"] == [1, 1, 0, 0, 0]
    assert scores["sub_em"] == [1, 0, 0, 0, 0]
    assert scores["f1"] == pytest.approx([1, 2 * 2 / (4 + 2), 0, 2 / 3, 0])
    assert scores["searches"] == [0, 1, 2, 3, 4]
    assert scoring.question_scores([ended("Osloer")])["sub_em"] == [1]


def test_bootstrap_mean_has_the_width_of_the_standard_error():
    """Of a mean of 400 draws the interval is 1.96 s / sqrt(n) to each side, as n grows."""
    values = np.random.default_rng(3).random(400)
    made = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / 20
    assert made.value == pytest.approx(values.mean()) and made.n == 400
    assert [made.high - made.value, made.value - made.low] == pytest.approx([half, half], rel=0.06)
    assert made == bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_bootstrap_intervals_cover():
    """95% intervals of 200 samples hold the true mean about 95% of the time."""
    rng = np.random.default_rng(0)
    made = [bootstrap_mean(rng.random(60) < 0.4, seed=i) for i in range(200)]
    assert 0.9 <= sum(m.low <= 0.4 <= m.high for m in made) / 200 <= 0.985


def exact_sign_flip_p(differences):
    """Over all 2^n assignments of signs."""
    means = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
             for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    return sum(m >= abs(sum(differences)) - 1e-9 for m in means) / len(means)


@pytest.mark.parametrize(
    "first, second",
    [
        ([0, 0, 0, 1, 0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 0, 0, 1, 1, 1, 0]),
        ([0.5, 0.2, 0.9, 0.1, 0.4, 0.4], [0.6, 0.1, 0.95, 0.3, 0.4, 0.9]),
        ([1, 0, 1], [1, 0, 1]),
    ],
)
def test_paired_p_is_the_permutation_tests(first, second):
    made = paired_difference(first, second, seed=0)
    exact = exact_sign_flip_p([b - a for a, b in zip(first, second, strict=True)])
    assert made.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000) + 1e-4)
    assert made.value == pytest.approx(np.mean(second) - np.mean(first))
    back = paired_difference(second, first, seed=0)
    assert back.p == made.p and back.value == -made.value
    assert (back.low, back.high) == pytest.approx((-made.high, -made.low), abs=0.02)


def test_pairing_finds_what_two_intervals_hide():
    """Two policies that differ on 12 of 300 questions, always for the better: their own intervals overlap widely."""
    first = [float(i % 2) for i in range(300)]
    second = [1.0 if i < 24 else value for i, value in enumerate(first)]
    made = paired_difference(first, second, seed=0)
    assert made.value == 12 / 300 and made.low > 0 and made.p < 0.002
    assert bootstrap_mean(first, 0).high > bootstrap_mean(second, 0).low
