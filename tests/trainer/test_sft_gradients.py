"""The gradient of a fine-tuning step against transformers' own forward pass and cross-entropy, in float64."""

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import rms_norm

from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.learner.learner import Learner
from aslfast.trainer.sft.learner import SupervisedLearner
from aslfast.trainer.sft.rows import SftRow
from tests.support.learner.reference import assert_close, take_gradients
from tests.support.token_streams import grouped, ragged

SETTINGS = {
    "one pack": {"share_prefix": "never"},
    "one pack, shared": {"share_prefix": "always"},
    "many packs": {"share_prefix": "never", "micro_batch_tokens": 60},
    "many packs, shared": {"share_prefix": "always", "micro_batch_tokens": 100},
}


def rows_of(trajectories, weights=None):
    return [SftRow(t, str(i), weights[i] if weights else 1.0) for i, t in enumerate(trajectories)]


def supervised(model, **options):
    return SupervisedLearner(Learner(model, LearnerConfig(**options), LossConfig(), 1.0, ROLES), "policy")


def in_float64(model):
    """A copy that computes in float64 throughout: transformers' norms round to float32 whatever the model's dtype."""
    model64 = copy.deepcopy(model).double()
    for module in model64.modules():
        if type(module).__name__.endswith("RMSNorm"):
            weight, eps = module.weight, module.variance_epsilon
            module.forward = partial(rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)
    return model64


def padded(rows):
    """ids, attention mask and labels as transformers takes them: right-padded, -100 where there is no loss."""
    length = max(len(row.trajectory.token_ids) for row in rows)
    ids, labels = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), -100)
    attention = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        tokens, mask = torch.tensor(row.trajectory.token_ids), torch.tensor(row.trajectory.loss_mask).bool()
        ids[i, : len(tokens)], attention[i, : len(tokens)] = tokens, 1
        labels[i, : len(tokens)] = torch.where(mask, tokens, -100)
    return {"input_ids": ids, "attention_mask": attention}, labels


def plain(model, rows):
    """The weighted cross-entropy of transformers' logits, in the model's dtype, and its gradient."""
    model.set_adapter("policy")
    inputs, labels = padded(rows)
    logits, targets = model(**inputs).logits[:, :-1], labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    weights = torch.tensor([row.weight for row in rows], dtype=logits.dtype)[:, None] * (targets != -100)
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    return float(loss.detach()), take_gradients(model)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_the_gradient_is_that_of_transformers(model, made_by, weighted, name):
    """Of every adapter weight, in float64: nothing but the order of additions differs."""
    trajectories, _ = made_by()
    rows = rows_of(trajectories, [0.5 + i % 3 for i in range(len(trajectories))] if weighted else None)
    model64 = in_float64(model)
    exact_loss, exact = plain(model64, rows)
    loss = supervised(model64, **SETTINGS[name]).accumulate(rows)
    found, size = take_gradients(model64), max(float(g.abs().max()) for g in exact.values())
    assert found.keys() == exact.keys() and size > 1e-3
    assert max(float((found[weight] - exact[weight]).abs().max()) for weight in exact) <= 1e-13 * size
    assert loss == pytest.approx(exact_loss, rel=1e-6)  # logged in float32


@pytest.mark.parametrize("name", SETTINGS)
def test_in_float32_it_is_as_near_as_transformers_is(model, name):
    """Our error against float64 is at most twice that of transformers' own float32, plus roundings."""
    rows = rows_of(grouped()[0])
    _, exact = plain(in_float64(model), rows)
    _, own = plain(model, rows)
    supervised(model, **SETTINGS[name]).accumulate(rows)
    assert_close(take_gradients(model), exact, own, roundings=8)


def test_it_is_the_loss_that_transformers_computes_itself(model):
    rows = rows_of(ragged()[0])
    inputs, labels = padded(rows)
    model.set_adapter("policy")
    wanted = float(model(**inputs, labels=labels).loss.detach())
    assert supervised(model).accumulate(rows) == pytest.approx(wanted, rel=1e-5)


def test_an_evaluation_gives_loss_and_token_accuracy(model):
    rows = rows_of(grouped()[0])
    inputs, labels = padded(rows)
    model.set_adapter("policy")
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    targets = labels[:, 1:]
    right = (logits.argmax(-1) == targets)[targets != -100].float().mean()
    stats = supervised(model, micro_batch_tokens=60).evaluate(rows)
    assert stats.accuracy == pytest.approx(float(right))
    wanted = float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets))
    assert stats.loss == pytest.approx(wanted, rel=1e-5)
    assert stats.loss_tokens == int((targets != -100).sum())
