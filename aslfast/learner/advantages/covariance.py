"""Clip-cov: a few tokens of high covariance between log-prob and advantage are left out of the policy gradient.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", arXiv 2505.22617; its
code is `compute_policy_loss_clip_cov`, there and in verl. SPEAR (arXiv 2509.22601) takes 2% from between 1 and 40.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from aslfast.config.learning import LossConfig
from aslfast.core import Trajectory
from aslfast.learner.advantages.signal import Floats
from aslfast.learner.batch import loss_positions


def without_high_covariance(
    trajectories: Sequence[Trajectory], advantages: Sequence[Floats], config: LossConfig
) -> list[Floats]:
    """Return the advantages of the loss tokens [L] of each trajectory, with those of the chosen tokens 0.

        c_t = (A_t - mean A) (log mu(t) - mean log mu), means over all loss tokens of the step
    Of the tokens with cov_low < c_t < cov_high, max(1, int(cov_fraction L)) are drawn at random without repetition.
    They keep their place in the loss's mean, and their KL.
    We differ: the paper's log-probs are the learner's and its batch is a micro-batch; the sampler's are the same up to
    the mismatch, since a batch gets one step, and are known of the whole step on every rank, so that the choice does
    not depend on how a step is split. Tokens that PPO clips are not known yet, and not excluded. The draw is seeded by
    the log-probs, so that a resumed run repeats it.
    """
    logp_L = np.concatenate([np.asarray(t.logprobs)[loss_positions(t)] for t in trajectories])
    advantage_L = np.concatenate(advantages)
    covariance_L = (advantage_L - advantage_L.mean()) * (logp_L - logp_L.mean())
    candidates = np.flatnonzero((covariance_L > config.cov_low) & (covariance_L < config.cov_high)).tolist()
    number = min(max(1, int(config.cov_fraction * len(logp_L))), len(candidates))
    seed = int.from_bytes(blake2b(logp_L.tobytes(), digest_size=8).digest(), "big")
    advantage_L[random.Random(seed).sample(candidates, number)] = 0.0
    return np.split(advantage_L, np.cumsum([len(each) for each in advantages])[:-1])
