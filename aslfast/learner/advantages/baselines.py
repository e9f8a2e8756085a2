"""Rewards with their groups' keys -> advantages, within a step or against earlier steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aslfast.config.learning import MOVING, AdvantageConfig
from aslfast_kernels import group_advantage

History = Mapping[str, tuple[float, ...]]  # by key: the moving mean alone, or the last groups' mean rewards


@dataclass(frozen=True)
class Rewards:
    """Rewards to be compared: of trajectories, or of spans. keys: of the groups; places: of the prompts they are at."""

    values: Sequence[float]
    keys: Sequence[str]
    places: Sequence[int]


def estimate(rewards: Rewards, config: AdvantageConfig, history: History) -> tuple[list[float], History]:
    """Return the advantages, and the history with these rewards in it.

    scale "whitened": with a = reward minus baseline, A = (a - mean a) / std a over the whole batch, the global
    normalisation of REINFORCE++ (arXiv 2501.03262). "batch" divides by the std of the rewards instead, "group" by that
    of the rewards of the same key; under a baseline over steps both are the std of a, over all of `rewards` or the key.
    """
    rewards_N = torch.tensor(rewards.values, dtype=torch.float64)
    ids_N = _ids(rewards.keys)
    baseline, after = config.baseline, dict(history)
    if baseline in MOVING:
        before, after = _over_steps(rewards, config, history)
        rewards_N, baseline = rewards_N - torch.tensor(before, dtype=torch.float64), "none"
    advantages_N = _scaled(rewards_N, ids_N, baseline, config.scale)
    if config.singleton == "reward":
        alone_N = ids_N.bincount()[ids_N] == 1
        advantages_N = torch.where(alone_N, rewards_N, advantages_N)
    return advantages_N.tolist(), after


def _ids(keys: Sequence[str]) -> Tensor:
    """Return the number of each key, by first appearance [N]."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys], dtype=torch.int64)


def _scaled(rewards_N: Tensor, ids_N: Tensor, baseline: str, scale: str) -> Tensor:
    if scale != "whitened":
        return group_advantage(rewards_N, ids_N, baseline=baseline, scale=scale)
    centred_N = group_advantage(rewards_N, ids_N, baseline=baseline, scale="none")
    return group_advantage(centred_N, torch.zeros_like(ids_N), baseline="mean", scale="group")


def _over_steps(rewards: Rewards, config: AdvantageConfig, history: History) -> tuple[list[float], History]:
    if config.baseline == "moving":
        return moving_means(rewards, config.decay, history)
    return fifo_medians(rewards, config.history, history)


def moving_means(rewards: Rewards, decay: float, history: History) -> tuple[list[float], History]:
    """Return the baseline of each reward, and the history after them.

    b_i is the moving mean of its key before it; then b <- decay b + (1 - decay) r_i, from 0, in the order given: the
    role-conditioned baseline of SPIRAL (arXiv 2506.24119; its code starts at 0 too, with decay 0.95).
    """
    after, before = dict(history), []
    for value, key in zip(rewards.values, rewards.keys, strict=True):
        (mean,) = after.get(key, (0.0,))
        before.append(mean)
        after[key] = (decay * mean + (1 - decay) * value,)
    return before, after


def fifo_medians(rewards: Rewards, size: int, history: History) -> tuple[list[float], History]:
    """Return the baseline of each reward, and the history after them.

    The mean reward of each prompt's group joins its key's history, of which the last `size` stay; the baseline is the
    median of those, this step's among them (SPEAR, arXiv 2509.22601, for the trajectories that it replays).
    We differ: its code takes whole steps out, so that a few more than `size` may stay.
    """
    means: dict[tuple[str, int], list[float]] = {}
    for value, key, place in zip(rewards.values, rewards.keys, rewards.places, strict=True):
        means.setdefault((key, place), []).append(value)
    after = dict(history)
    for (key, _), values in means.items():
        after[key] = (*after.get(key, ()), statistics.fmean(values))[-size:]
    medians = {key: statistics.median(after[key]) for key in set(rewards.keys)}
    return [medians[key] for key in rewards.keys], after
