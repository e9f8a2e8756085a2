"""Groups -> one advantage per trajectory, computed by the group-advantage kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aslfast.config.schema import AdvantageConfig
from aslfast.core import Group, Trajectory
from aslfast_kernels import group_advantage


def advantages(groups: Sequence[Group], config: AdvantageConfig) -> tuple[list[Trajectory], list[float]]:
    """Return the trajectories to learn from and their advantages: every trajectory with a sampled token.

    With `drop_zero_variance`, groups whose rewards are all equal are left out (DAPO, arXiv 2503.14476); they still
    count in the baseline and the scale.
    """
    rewards_N = torch.tensor([reward.total for group in groups for reward in group.rewards], dtype=torch.float64)
    ids_N = torch.tensor([i for i, group in enumerate(groups) for _ in group.trajectories])
    by_trajectory = iter(_advantages(rewards_N, ids_N, config).tolist())
    kept: list[tuple[Trajectory, float]] = []
    for group in groups:
        dropped = config.drop_zero_variance and len({reward.total for reward in group.rewards}) <= 1
        pairs = [(trajectory, next(by_trajectory)) for trajectory in group.trajectories]
        kept += [] if dropped else [(t, a) for t, a in pairs if t.n_sampled]
    return [t for t, _ in kept], [a for _, a in kept]


def _advantages(rewards_N: Tensor, ids_N: Tensor, config: AdvantageConfig) -> Tensor:
    """Return the advantages [N].

    scale "whitened": with a = reward minus baseline, A = (a - mean a) / std a over the whole batch, the global
    normalisation of REINFORCE++ (arXiv 2501.03262). scale "batch" divides by the std of the rewards instead.
    """
    if config.scale != "whitened":
        return group_advantage(rewards_N, ids_N, baseline=config.baseline, scale=config.scale)
    centred_N = group_advantage(rewards_N, ids_N, baseline=config.baseline, scale="none")
    return group_advantage(centred_N, torch.zeros_like(ids_N), baseline="mean", scale="group")
