"""Spans of a trajectory: their rewards, masks and KL weights, by hand and as gradients against a plain loop."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.core import Group, Reward, Span
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.advantages.spans import token_advantages, token_kl_weights
from aslfast.learner.batch import loss_positions
from tests.support.learner.reference import TEMPERATURE, assert_close, learner_of, take_gradients
from tests.support.token_streams import grouped, ragged, trajectory


def spanned(n_tokens, *spans, seed=0):
    made = trajectory(n_tokens, seed)
    return replace(made, spans=spans, loss_mask=(0,) + (1,) * (n_tokens - 1))


def test_a_span_must_lie_in_its_trajectory():
    with pytest.raises(ValueError, match=r"span 'search': \[3, 3\)"):
        Span("search", 3, 3)
    with pytest.raises(ValueError, match=r"span 's'.*KL weight -1"):
        Span("s", 0, 1, kl_weight=-1)
    with pytest.raises(ValueError, match="span 's': its reward is nan"):
        Span("s", 0, 1, float("nan"))
    with pytest.raises(ValueError, match="span 's' ends at 6, of 5 tokens"):
        spanned(5, Span("s", 2, 6))


def test_tokens_by_hand():
    """Six tokens, of which the first is the prompt: 1..5 carry loss, but 3."""
    made = spanned(6, Span("a", 1, 3, kl_weight=0.5), Span("hidden", 3, 4, learn=False), Span("b", 2, 6, kl_weight=4.0))
    assert loss_positions(made).tolist() == [1, 2, 4, 5]
    assert token_advantages(made, 1.0, [10.0, 0.0, 0.25]).tolist() == [11.0, 11.25, 1.25, 1.25]
    assert token_kl_weights(made).tolist() == [0.5, 2.0, 4.0, 4.0]
    assert token_kl_weights(spanned(6, Span("a", 1, 3, 1.0))) is None


def test_span_rewards_are_compared_with_those_of_their_name():
    """Searches have 1, 0 and 0.5; the one answer span is alone. All trajectories' rewards are equal."""
    first = spanned(8, Span("search", 1, 3, 1.0), Span("search", 3, 5, 0.0), Span("answer", 5, 8, 7.0))
    second = spanned(8, Span("search", 1, 4, 0.5), Span("note", 4, 8), seed=1)
    third = spanned(8, seed=2)
    group = Group((first, second, third), (Reward({"r": 1.0}),) * 3)
    found = lesson([group], AdvantageConfig(scale="none"), LossConfig())
    assert found.trajectories == [first]  # of the others no token has an advantage
    assert found.signals[0].advantage_L.tolist() == pytest.approx([0.5, 0.5, -0.5, -0.5, 0.0, 0.0, 0.0])
    raw = lesson([group], AdvantageConfig("none", "none"), LossConfig(), None)
    assert raw.signals[0].advantage_L.tolist() == pytest.approx([2.0, 2.0, 1.0, 1.0, 8.0, 8.0, 8.0])
    assert raw.signals[1].advantage_L.tolist() == pytest.approx([1.5] * 3 + [1.0] * 4)


def test_a_second_attempt_with_a_bonus_for_the_gain():
    """SCoRe's second stage: r1 on the first attempt's tokens, r2 + 10 (r2 - r1) on the second's, no baseline."""
    made = spanned(5, Span("first", 1, 3, 0.0), Span("second", 3, 5, 1.0 + 10 * 1.0))
    found = lesson([Group((made,), (Reward(),))], AdvantageConfig("none", "none"), LossConfig())
    assert found.signals[0].advantage_L.tolist() == [0.0, 0.0, 11.0, 11.0]


def test_a_trajectory_without_a_token_to_learn_is_left_out():
    hidden = spanned(5, Span("all", 0, 5, learn=False))
    group = Group((hidden, spanned(5, seed=1)), (Reward({"r": 1.0}), Reward()))
    assert lesson([group], AdvantageConfig(), LossConfig()).trajectories == [group.trajectories[1]]


# --- gradients -----------------------------------------------------------------------------------------------------


def with_spans(trajectories, seed=0):
    """Up to three spans a trajectory, of any place, overlapping or not, and the values of each."""
    rng, found = random.Random(seed), []
    for t in trajectories:
        spans = []
        for name in "abc"[: rng.randrange(4)]:
            start = rng.randrange(len(t.token_ids))
            end = rng.randrange(start, len(t.token_ids)) + 1
            spans.append(Span(name, start, end, learn=rng.random() > 0.3, kl_weight=rng.choice((0.0, 0.5, 3.0))))
        found.append(replace(t, spans=tuple(spans)))
    return found, [[rng.uniform(-2, 2) for _ in t.spans] for t in found]


def token_values(t, position, advantage, by_span):
    """(advantage, KL weight) of a token; None where it carries no loss."""
    inside = [(s, v) for s, v in zip(t.spans, by_span, strict=True) if s.start <= position < s.end]
    if position == 0 or not t.loss_mask[position] or not all(span.learn for span, _ in inside):
        return None
    weight = 1.0
    for span, _ in inside:
        weight *= span.kl_weight
    return advantage + sum(value for _, value in inside), weight


KL = 0.3


def logprobs(model, ids):
    """Those of the tokens from the second on."""
    logp_TV = (model(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)
    return logp_TV[:-1].gather(1, ids[1:, None])[:, 0].unbind()


def by_loop(model, trajectories, advantages, by_span, estimator):
    """Loss and gradients, token by token: PPO with a KL to the base; logits of whole trajectories, unpacked."""
    model.set_adapter("policy")
    values = [
        [token_values(t, i, a, v) for i in range(len(t.token_ids))]
        for t, a, v in zip(trajectories, advantages, by_span, strict=True)
    ]
    n, total = sum(v is not None for row in values for v in row), 0.0
    for t, row in zip(trajectories, values, strict=True):
        ids = torch.tensor(t.token_ids)
        with torch.no_grad(), model.disable_adapter():
            base_T = logprobs(model, ids)
        logp_T, loss = logprobs(model, ids), 0.0 * logprobs(model, ids)[0]
        for i, value in enumerate(row):
            if value is None:
                continue
            (a, weight), logp, base = value, logp_T[i - 1], base_T[i - 1]
            ratio = (logp - t.logprobs[i]).exp()
            kl = (base - logp).exp() - (base - logp) - 1 if estimator == "k3" else (logp - base) ** 2 / 2
            loss = loss + (-torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a) + KL * weight * kl) / n
        loss.backward()
        total += float(loss.detach())
    return total, take_gradients(model)


def by_learner(model, trajectories, advantages, by_span, estimator, **options):
    learner = learner_of(model, LossConfig(kl_coef=KL, kl_estimator=estimator), **options)
    model.set_adapter("policy")
    signals = [
        Signal(a, token_advantages(t, a, values) if values else None, token_kl_weights(t))
        for t, a, values in zip(trajectories, advantages, by_span, strict=True)
    ]
    n = float(sum(len(loss_positions(t)) for t in trajectories))
    sums = learner.accumulate(trajectories, signals, n, with_kl=True)
    return sums.loss, take_gradients(model)


SPLITS = {
    "shared": {"share_prefix": "always"},
    "not shared": {"share_prefix": "never"},
    "many packs": {"micro_batch_tokens": 60},
}


@pytest.mark.parametrize("estimator", ["k3", "k2"])
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_rewards_masks_and_kl_weights_are_those_of_a_plain_loop(model, made_by, estimator):
    """In float64, packed, with common prefixes computed once and not: up to the float32 of advantages and weights."""
    model64 = copy.deepcopy(model).double()
    trajectories, advantages = made_by()
    trajectories, by_span = with_spans(trajectories)
    assert any(not s.learn for t in trajectories for s in t.spans)
    case = trajectories, advantages, by_span, estimator
    loss, exact = by_loop(model64, *case)
    own_loss, own = by_loop(model, *case)
    for options in SPLITS.values():
        found_loss, found = by_learner(model64, *case, **options)
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert_close(found, exact, exact)
        found_loss, found = by_learner(model, *case, **options)
        assert_close(found, exact, own)
        assert found_loss == pytest.approx(loss, abs=2 * abs(own_loss - loss) + 1e-5)


def test_signals_without_values_by_token_are_advantages_to_the_bit(model):
    trajectories, advantages = grouped()
    learner, found = learner_of(model, LossConfig()), []
    for signals in (advantages, [Signal(a) for a in advantages]):
        model.set_adapter("policy")
        sums = learner.accumulate(trajectories, signals, 100.0, with_kl=False)
        found.append((sums.loss, take_gradients(model)))
    (loss, one), (other_loss, other) = found
    assert loss == other_loss and all(torch.equal(one[name], other[name]) for name in one)
