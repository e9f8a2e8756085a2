"""Roles that share an adapter may sample at temperatures of their own: each token is learnt at its own."""

import copy
from dataclasses import replace

import pytest
import torch

from aslfast.config import RunConfig
from aslfast.config.roles import RoleConfig
from aslfast.config.schema import SamplerConfig
from aslfast.models import lora
from tests.support.learner.reference import TEMPERATURE, at_loss_tokens, learner_of, naive_logprobs
from tests.support.token_streams import grouped

HOT = 1.3
ASKER = RunConfig(
    sampler=SamplerConfig(temperature=TEMPERATURE),
    roles={"policy": RoleConfig(), "asker": RoleConfig(adapter="policy", temperature=HOT)},
)


def gradient(learner, trajectories, advantages):
    learner.model.set_adapter("policy")
    sums = learner.accumulate(trajectories, advantages, 10.0, with_kl=False)
    return sums, torch.cat([p.grad.flatten() for p in lora.parameters_of(learner.model, "policy")])


@pytest.fixture
def played(model):
    """Trajectories by role in turn, as each role's temperature has it, with advantages."""
    model.set_adapter("policy")
    roles, found = (("policy", TEMPERATURE), ("asker", HOT)), []
    trajectories, advantages = grouped()
    for number, trajectory in enumerate(trajectories):
        name, temperature = roles[number % 2]
        own = naive_logprobs(model, [trajectory], temperature).tolist() if trajectory.n_sampled else []
        task = replace(trajectory.task, role=name)
        found.append(replace(trajectory, task=task, logprobs=at_loss_tokens(trajectory, own)))
    return found, advantages


def test_each_role_of_an_adapter_is_learnt_at_its_own_temperature(model, played):
    learner = learner_of(model)
    learner.settle(ASKER)
    stats = learner.step("policy", *played)
    assert stats.mismatch_max < 1e-4 and stats.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert learner_of(model).step("policy", *played).mismatch_max > 0.1  # all at one temperature


def test_the_gradient_is_the_sum_of_what_each_role_gives_alone(model, played):
    trajectories, advantages = played
    both = learner_of(copy.deepcopy(model))
    both.settle(ASKER)
    sums, whole = gradient(both, trajectories, advantages)
    parts, losses = [], []
    for name in ("policy", "asker"):
        alone = learner_of(copy.deepcopy(model))
        alone.settle(ASKER)
        kept = [i for i, t in enumerate(trajectories) if t.task.role == name]
        part, own = gradient(alone, [trajectories[i] for i in kept], [advantages[i] for i in kept])
        parts.append(own)
        losses.append(part.loss)
    assert sums.loss == pytest.approx(sum(losses), rel=1e-6)
    assert torch.allclose(whole, sum(parts), rtol=1e-5, atol=1e-7) and all(part.abs().max() > 1e-3 for part in parts)
