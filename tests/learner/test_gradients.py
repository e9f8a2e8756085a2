"""The learner's gradients against a naive loop: packed or not, shared or not, with activation checkpointing or not."""

import copy

import pytest
import torch

from aslfast.config.schema import LossConfig
from aslfast.learner.batch import loss_positions
from tests.support.learner.reference import (
    EPS,
    TEMPERATURE,
    assert_close,
    learner_gradients,
    naive_gradients,
    off_by,
    take_gradients,
)
from tests.support.token_streams import grouped, ragged

SETTINGS = {
    "one pack": {"share_prefix": "never"},
    "one pack, shared": {"share_prefix": "always"},
    "many packs": {"share_prefix": "never", "micro_batch_tokens": 60},
    "many packs, shared": {"share_prefix": "always", "micro_batch_tokens": 100},
    "one trajectory a pack": {"micro_batch_tokens": 1},
    "checkpointed layers": {"activation_checkpointing": "layers", "share_prefix": "always"},
    "selective": {"activation_checkpointing": "selective", "share_prefix": "always"},
    "selective, many packs": {"activation_checkpointing": "selective", "micro_batch_tokens": 60},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_every_setting_gives_the_gradient_of_a_naive_loop(model, made_by, name):
    """Packed or not, shared or not, recomputed or not: the loss and every adapter gradient. In float64 they agree up to
    the loss's float32 arithmetic; in float32 our error is at most twice the loop's own."""
    trajectories, advantage = made_by()
    model64 = copy.deepcopy(model).double()
    exact_loss, exact = naive_gradients(model64, trajectories, advantage)
    own_loss, own = naive_gradients(model, trajectories, advantage)
    for which, reference in ((model64, exact), (model, own)):
        loss, found = learner_gradients(which, trajectories, advantage, **SETTINGS[name])
        assert_close(found, exact, reference)
        assert loss == pytest.approx(
            exact_loss, abs=2 * abs(own_loss - exact_loss) + 64 * EPS * max(1, abs(exact_loss))
        )
    assert max(float(g.abs().max()) for g in exact.values()) > 1e-3


def test_order_of_trajectories_does_not_matter(model):
    trajectories, advantage = grouped()
    _, one = learner_gradients(model, trajectories, advantage)
    _, other = learner_gradients(model, trajectories[::-1], advantage[::-1])
    assert_close(other, one, one)


def test_a_shared_prefix_must_carry_every_gradient(model):
    """The check of the test above: without the gradient of one sample's suffix, the prefix has another one."""
    trajectories, advantage = grouped()
    _, all_of_them = learner_gradients(model, trajectories, advantage, share_prefix="always")
    _, but_one = learner_gradients(model, trajectories, [0.0, *advantage[1:]], share_prefix="always")
    size = max(float(g.abs().max()) for g in all_of_them.values())
    assert max(float((all_of_them[n] - but_one[n]).abs().max()) for n in but_one) > 1e-2 * size


def test_truncated_importance_sampling_is_its_formula(model):
    """d loss = - sum_t min(pi_t / mu_t, C) A_t d log pi_t / N, with mu off by known noise; checked on every weight."""
    cap, (trajectories, advantage) = 1.1, grouped()
    model64 = copy.deepcopy(model).double()
    trajectories, shift = off_by(trajectories, model64, 0.3)
    _, ours = learner_gradients(model64, trajectories, advantage, LossConfig(tis_cap=cap))
    weight, n = torch.exp(-shift).clamp(max=cap), len(shift)
    assert 0.2 < float((weight == cap).double().mean()) < 0.8
    start = 0
    for t, a in zip(trajectories, advantage, strict=True):
        at = torch.from_numpy(loss_positions(t))
        if len(at):
            ids = torch.tensor(t.token_ids)
            logp = (model64(input_ids=ids[None]).logits[0] / TEMPERATURE).log_softmax(-1)[at - 1, ids[at]]
            (-(weight[start : start + len(at)] * a * logp).sum() / n).backward()
            start += len(at)
    exact = take_gradients(model64)
    assert_close(ours, exact, exact)
    _, plain = learner_gradients(model64, trajectories, advantage)
    size = max(float(g.abs().max()) for g in exact.values())
    assert max(float((plain[n] - exact[n]).abs().max()) for n in exact) > 1e-2 * size  # without it another gradient
