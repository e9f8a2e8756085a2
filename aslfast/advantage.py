"""Groups -> one advantage a trajectory, on the group-advantage kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from aslfast_kernels import group_advantage

from aslfast.config import AdvantageConfig
from aslfast.core import Group, Trajectory


def advantages(groups: Sequence[Group], config: AdvantageConfig) -> tuple[list[Trajectory], list[float]]:
    """The trajectories that carry a signal and their advantages.

    Those of flat groups are dropped (DAPO, arXiv 2503.14476), and those that never came to sample a token.
    """
    trajectories = [t for group in groups for t in group.trajectories]
    rewards_N = torch.tensor([reward.total for group in groups for reward in group.rewards], dtype=torch.float64)
    ids_N = torch.tensor([i for i, group in enumerate(groups) for _ in group.trajectories])
    advantage_N = group_advantage(rewards_N, ids_N, baseline=config.baseline, scale=config.scale)
    kept = [(t, a) for t, a in zip(trajectories, advantage_N.tolist(), strict=True) if a != 0.0 and t.n_sampled]
    return [t for t, _ in kept], [a for _, a in kept]
