"""A step whose loss or gradient is not finite: no weight moves, and the trajectories that caused it are named."""

import copy
import dataclasses

import pytest
import torch

from aslfast.errors import UserError
from tests.support.learner.reference import learner_of, moved, spoken, state
from tests.support.token_streams import grouped


def poisoned(*at):
    """Return grouped(), with NaN log-probs of the sampler at these trajectories, so that their loss is NaN."""
    trajectories, advantage = grouped()
    for i in at:
        logprobs = tuple(float("nan") if flag else 0.0 for flag in trajectories[i].loss_mask)
        trajectories[i] = dataclasses.replace(trajectories[i], logprobs=logprobs)
    return trajectories, advantage


def test_a_step_that_is_not_finite_moves_no_weight_and_names_its_cause(model):
    learner = learner_of(model)
    learner.step("policy", *grouped())
    weights, moments = state(model), copy.deepcopy(learner.optimizers["policy"].state_dict())
    bad = spoken(grouped()[0])[1:3]
    trajectories, advantage = poisoned(*bad)
    stats = learner.step("policy", trajectories, advantage)
    assert stats.loss is stats.grad_norm is stats.mismatch is None and stats.skipped_steps == 1
    assert set(stats.not_finite) == {trajectories[i].task.id for i in bad}
    assert not moved(model, weights) and learner.version["policy"] == 1
    after = learner.optimizers["policy"].state_dict()
    for one, other in zip(moments["state"].values(), after["state"].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(p.grad is None for p in model.parameters())
    again = learner.step("policy", *grouped())
    assert again.grad_norm > 0 and again.skipped_steps == 1 and again.not_finite == ()


def test_an_infinite_gradient_of_a_finite_loss_is_found(model):
    """An advantage whose gradient's square is beyond float32: the norm overflows, the loss does not."""
    learner, (trajectories, advantage) = learner_of(model), grouped()
    chosen = spoken(trajectories)[0]
    stats = learner.step("policy", trajectories, [1e30 if i == chosen else a for i, a in enumerate(advantage)])
    assert stats.not_finite == (trajectories[chosen].task.id,) and stats.mismatch > 0
    assert stats.grad_norm is None and learner.version["policy"] == 0


def test_the_run_ends_after_so_many_in_a_row(model):
    learner = learner_of(model, max_skipped_steps=2)
    learner.step("policy", *poisoned(spoken(grouped()[0])[0]))
    learner.step("policy", *grouped())  # a finite one between: the count starts again
    learner.step("grm", *poisoned(spoken(grouped()[0])[0]))
    bad = spoken(grouped()[0])[2]
    name = grouped()[0][bad].task.id
    with pytest.raises(
        UserError,
        match=rf"policy: no finite gradient in 2 steps in a row \(learner.max_skipped_steps\), .* {name}; lower",
    ):
        learner.step("policy", *poisoned(bad))
