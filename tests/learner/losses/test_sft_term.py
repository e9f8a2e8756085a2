"""The likelihood of successes: as a loss of its own, and added to another, however a step is split."""

import copy
from dataclasses import replace

import pytest
import torch

from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.batch import loss_positions
from tests.support.learner.reference import TEMPERATURE, learner_of, take_gradients
from tests.support.token_streams import grouped

COEF = 0.15
by_aggregate = pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "constant"])


def logprobs(model, trajectory):
    """The loss tokens' log-probs, unpacked, with a gradient."""
    at, ids = torch.from_numpy(loss_positions(trajectory)), torch.tensor(trajectory.token_ids)
    return (model(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)[at - 1, ids[at]]


def aggregated(values, aggregate, config):
    """The mean over tokens, of means over trajectories, or the sum over a constant of each trajectory."""
    values = [value for value in values if len(value)]
    if aggregate == "token_mean":
        return torch.cat(values).mean()
    if aggregate == "sequence_mean":
        return torch.stack([value.mean() for value in values]).mean()
    return torch.cat(values).sum() / (len(values) * config.trajectory_tokens)


def signals_of(advantages):
    """Every third is a success."""
    return [Signal(a, success=i % 3 == 0) for i, a in enumerate(advantages)]


def taken(model, trajectories, signals, config, **options):
    """(loss, gradient norm before the clip) of a step."""
    stats = learner_of(copy.deepcopy(model), config, **options).step("policy", trajectories, signals)
    return stats.loss, stats.grad_norm


def exactly(model, loss):
    """The same of a loss made by hand."""
    loss.backward()
    gradients = take_gradients(model)
    return float(loss.detach()), float(sum((g**2).sum() for g in gradients.values()) ** 0.5)


@by_aggregate
def test_the_added_term_is_a_mean_over_successes(model, aggregate):
    model = copy.deepcopy(model).double()
    trajectories, advantages = grouped()
    config = LossConfig(clip_low=1.0, clip_high=1e6, sft_coef=COEF, aggregate=aggregate)
    model.set_adapter("policy")
    policy, chosen = [], []
    for i, (t, a) in enumerate(zip(trajectories, advantages, strict=True)):
        logp = logprobs(model, t)
        old = torch.tensor([t.logprobs[i] for i in loss_positions(t)], dtype=torch.float32).double()
        policy.append(-(logp - old).exp() * a)
        chosen += [-logp] if i % 3 == 0 else []
    assert 2 < len(chosen) < len(trajectories) - 2
    wanted = exactly(model, aggregated(policy, aggregate, config) + COEF * aggregated(chosen, aggregate, config))
    for options in ({}, {"micro_batch_tokens": 60}, {"share_prefix": "always"}):
        assert taken(model, trajectories, signals_of(advantages), config, **options) == pytest.approx(wanted, rel=1e-5)
    without = taken(model, trajectories, signals_of(advantages), replace(config, sft_coef=0.0))
    assert without != pytest.approx(wanted, rel=1e-3)


@by_aggregate
def test_kind_sft_is_the_likelihood(model, aggregate):
    model = copy.deepcopy(model).double()
    trajectories, _ = grouped()
    group = Group(tuple(trajectories), tuple(Reward({"r": float(i % 3 == 0)}) for i in range(len(trajectories))))
    config = LossConfig("sft", aggregate=aggregate)
    taught = lesson([group], AdvantageConfig(), config)
    model.set_adapter("policy")
    chosen = [-logprobs(model, t) for i, t in enumerate(trajectories) if i % 3 == 0 and t.n_sampled]
    wanted = exactly(model, aggregated(chosen, aggregate, config))
    assert taken(model, taught.trajectories, taught.signals, config) == pytest.approx(wanted, rel=1e-5)


def test_without_a_success_nothing_is_added(model):
    trajectories, advantages = grouped()
    signals = [Signal(a, success=False) for a in advantages]
    assert taken(model, trajectories, signals, LossConfig(sft_coef=COEF)) == taken(
        model, trajectories, signals, LossConfig()
    )


def test_it_needs_to_know_the_successes(model):
    trajectories, advantages = grouped()
    with pytest.raises(ValueError, match=r"loss.sft_coef: a trajectory came without its success"):
        learner_of(model, LossConfig(sft_coef=COEF)).step("policy", trajectories, advantages)
