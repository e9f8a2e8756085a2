"""Every algorithm by name against its own formula, written out plainly from rewards and log-probs: loss and gradient.

The formulas are those of the papers; each case states its own, none reads our settings. Rewards in, loss out, so
advantages, what is dropped and what the sum is divided by are part of it. Float32 arithmetic in ours: 1e-5.
"""

from dataclasses import replace

import pytest
import torch

from aslfast.config import load_recipe
from aslfast.config.algorithms import algorithm_names
from aslfast.core import Group, Reward
from aslfast.learner.advantage import lesson
from aslfast.learner.loss import LossInputs, loss_of, normalizer_of
from tests.support.token_streams import trajectory

REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.4], [1.0, 1.0], [0.0, 3.0]]  # the third group is flat
HOPS = [1, 2, 2, 1]  # of the groups


def groups():
    """(groups, [by trajectory: group, live tokens])."""
    made, seed = [], 0
    for rewards in REWARDS:
        spoken = [trajectory(6 + 3 * i, seed + i) for i in range(len(rewards))]
        spoken = [replace(t, task=replace(t.task, hops=HOPS[len(made)])) for t in spoken]
        seed += len(rewards)
        made.append(Group(tuple(spoken), tuple(Reward({"judge": r}) for r in rewards)))
    return made


class Sample:
    """One trajectory of the formula: its reward, its group's rewards, and log-probs under three policies."""

    def __init__(self, place, reward, n_live, g):
        self.group, self.hops, self.reward = REWARDS[place], HOPS[place], reward
        self.old = -3 * torch.rand(n_live, generator=g, dtype=torch.float64)
        self.new = (self.old + 0.4 * torch.randn(n_live, generator=g, dtype=torch.float64)).requires_grad_()
        self.ref = self.old + 0.3 * torch.randn(n_live, generator=g, dtype=torch.float64)
        self.ratio = (self.new - self.old).exp()
        self.k3 = (self.ref - self.new).exp() - (self.ref - self.new) - 1
        self.k2 = 0.5 * (self.new - self.ref) ** 2

    def standardised(self):
        mean = sum(self.group) / len(self.group)
        std = (sum((r - mean) ** 2 for r in self.group) / len(self.group)) ** 0.5
        return (self.reward - mean) / (std + 1e-6)

    def rate(self):
        return sum(r > 0.5 for r in self.group) / len(self.group)

    def centred(self):
        return self.reward - sum(self.group) / len(self.group)


def samples():
    g, made = torch.Generator().manual_seed(0), []
    for place, group in enumerate(groups()):
        made += [Sample(place, r, t.n_sampled, g) for t, r in zip(group.trajectories, REWARDS[place], strict=True)]
    return made


def surrogate(ratio, a, low, high):
    """PPO's, to be maximised (arXiv 1707.06347)."""
    return torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def live(found):
    return sum(len(s.new) for s in found)


def differing(found):
    return [s for s in found if len(set(s.group)) > 1]


def whitened(values):
    mean = sum(values) / len(values)
    std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    return [(v - mean) / (std + 1e-6) for v in values]


def grpo(found):
    return -sum((surrogate(s.ratio, s.standardised(), 0.2, 0.2) - 0.04 * s.k3).mean() for s in found) / len(found)


def dr_grpo(found):
    return -sum(surrogate(s.ratio, s.centred(), 0.2, 0.2).sum() / 1024 for s in found) / len(found)


def rloo(found):
    total = 0.0
    for s in found:
        others = (sum(s.group) - s.reward) / (len(s.group) - 1)
        total = total + (s.ratio * (s.reward - others) - 0.05 * s.k2).sum()
    return -total / len(found)


def dapo(found):
    kept = differing(found)
    return -sum(surrogate(s.ratio, s.standardised(), 0.2, 0.28).sum() for s in kept) / live(kept)


def gspo(found):
    ratios = [(s.new - s.old).mean().exp() for s in found]
    return -sum(surrogate(r, s.standardised(), 3e-4, 4e-4) for r, s in zip(ratios, found, strict=True)) / len(found)


def cispo(found):
    kept = differing(found)
    weights = [s.ratio.detach().clamp(max=5.0) for s in kept]
    return -sum((w * s.standardised() * s.new).sum() for w, s in zip(weights, kept, strict=True)) / live(kept)


def reinforce_pp(found):
    a = whitened([s.reward for s in found])
    pairs = zip(found, a, strict=True)
    return -sum((surrogate(s.ratio, x, 0.2, 0.2) - 1e-3 * s.k2).sum() for s, x in pairs) / live(found)


def reinforce_pp_baseline(found):
    a = whitened([s.centred() for s in found])
    pairs = zip(found, a, strict=True)
    return -sum((surrogate(s.ratio, x, 0.2, 0.2) - 1e-3 * s.k2).sum() for s, x in pairs) / live(found)


def nft(found):
    """Of groups with right and wrong answers; the straight-through floor of 1 is on the implied negative policy."""
    total, kept = 0.0, [s for s in found if 0 < s.rate() < 1]
    for s in kept:
        q = s.rate()
        if s.reward > 0.5:
            total = total - (1 - q) * s.ratio.log().sum()
            continue
        implied = (1 - q * s.ratio) / (1 - q)
        total = total - (1 - q) * (implied + (implied.clamp(min=1.0) - implied).detach()).log().sum()
    return total / live(kept)


def rft(found):
    kept = [s for s in found if s.reward > 0.5]
    return -sum(s.new.sum() for s in kept) / live(kept)


def hrpo(found):
    total = 0.0
    for s in found:
        alike = [other.reward for other in found if other.hops == s.hops]
        mean = sum(alike) / len(alike)
        std = (sum((r - mean) ** 2 for r in alike) / len(alike)) ** 0.5
        total = total + surrogate(s.ratio, (s.reward - mean) / (std + 1e-6), 0.2, 0.2).sum()
    return -total / live(found)


FORMULAS = {
    f.__name__: f
    for f in (
        grpo, dr_grpo, rloo, dapo, gspo, cispo, reinforce_pp, reinforce_pp_baseline, nft, rft, hrpo,
    )
}  # fmt: skip


def ours(name, found):
    """(loss, d loss / d log-probs by sample) as a step makes them."""
    config = load_recipe("tiny", [f"algorithm={name}"])
    everyone = [t for group in groups() for t in group.trajectories]
    taught = lesson(groups(), config.advantage, config.loss)
    kept, advantage = taught.trajectories, [signal.advantage for signal in taught.signals]
    chosen = [found[everyone.index(t)] for t in kept]
    assert len({t.task.id for t in everyone}) == len(everyone)
    logp = torch.cat([s.new.detach() for s in chosen]).requires_grad_()
    inputs = LossInputs(
        logp,
        torch.cat([s.old for s in chosen]),
        torch.cat([s.ref for s in chosen]),
        torch.repeat_interleave(torch.tensor([len(s.new) for s in chosen])),
        torch.tensor(advantage, dtype=torch.float64),
        normalizer_of(config.loss, live(chosen), len(chosen)),
        success_S=torch.tensor([signal.success for signal in taught.signals]),
        rate_S=torch.tensor([signal.rate for signal in taught.signals], dtype=torch.float64),
    )
    loss, _ = loss_of(inputs, config.loss)
    loss.backward()
    by_sample = dict(zip(map(id, chosen), logp.grad.split([len(s.new) for s in chosen]), strict=True))
    return float(loss.detach()), [by_sample.get(id(s), torch.zeros_like(s.old)) for s in found]


@pytest.mark.parametrize("name", algorithm_names())
def test_an_algorithm_is_its_formula(name):
    found = samples()
    wanted = FORMULAS[name](found)
    wanted.backward()
    loss, gradients = ours(name, found)
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    for s, gradient in zip(found, gradients, strict=True):
        expected = s.new.grad if s.new.grad is not None else torch.zeros_like(s.old)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_the_algorithms_differ():
    """On these data no two are the same: a table that pointed two names at one loss would pass the test above."""
    losses = [ours(name, samples())[0] for name in algorithm_names()]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-4
