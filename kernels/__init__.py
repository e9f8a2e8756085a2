"""aslfast_kernels: exact log-probs, group advantages and policy losses for RL on language models.

Needs torch, and triton for CUDA tensors. torch.ops.aslfast_kernels holds the operators that torch.compile sees.

Shape suffixes: T tokens, L loss tokens (those that the mask keeps), D hidden, V vocabulary, N trajectories,
S sequences. The public functions check their arguments and choose an implementation by `impl=`: "torch" is a
package's reference.py, the specification; "triton" its fused.py.
"""

__version__ = "0.1.0"

if __name__ != "aslfast_kernels":
    # transformers tries `from kernels import ...`, another project's package, and from the repository's root finds
    # this folder; imported under a second name it would register every operator twice.
    raise ImportError("this folder is the package aslfast_kernels, not `kernels`")

# No sub-package may be called `logprob` or `policy_loss`: importing it would replace the function of that name here.
from .advantages.advantage import group_advantage
from .advantages.opo import opo_advantage
from .integrations.openrlhf import patch_openrlhf
from .integrations.prime_rl import patch_prime_rl
from .integrations.slime import patch_slime
from .integrations.trl import patch_trl
from .integrations.verl import patch_verl
from .logprobs.logprob import linear_logprob, logprob
from .losses.policy_loss import PolicyMetrics, policy_loss
from .objectives.covariance import clip_cov_loss, kl_cov_loss
from .objectives.kl import kl_estimate
from .objectives.likelihoods import nft_loss, sft_loss
from .objectives.surrogates import dppo_loss, gmpo_loss, sapo_loss
from .objectives.terms import aggregate_loss
from .objectives.weights import importance_weights

__all__ = [
    "PolicyMetrics",
    "aggregate_loss",
    "clip_cov_loss",
    "dppo_loss",
    "gmpo_loss",
    "group_advantage",
    "importance_weights",
    "kl_cov_loss",
    "kl_estimate",
    "linear_logprob",
    "logprob",
    "nft_loss",
    "opo_advantage",
    "patch_openrlhf",
    "patch_prime_rl",
    "patch_slime",
    "patch_trl",
    "patch_verl",
    "policy_loss",
    "sapo_loss",
    "sft_loss",
]
