"""aslfast_kernels: exact log-probs, group advantages and policy losses for RL on language models.

Needs torch, and triton for CUDA tensors. torch.ops.aslfast holds the operators that torch.compile sees.

Shape suffixes: T tokens, D hidden, V vocabulary, N trajectories, S sequences, L live tokens.
The public functions check their arguments and choose an implementation by `impl=`; `reference` holds the torch maths.
"""

if __name__ != "aslfast_kernels":
    # transformers tries `from kernels import ...`, another project's package, and from the repository's root finds
    # this folder; imported under a second name it would register every operator twice.
    raise ImportError("this folder is the package aslfast_kernels, not `kernels`")

from .advantage import group_advantage
from .logprob import linear_logprob, logprob
from .policy_loss import PolicyMetrics, policy_loss

__all__ = ["PolicyMetrics", "group_advantage", "linear_logprob", "logprob", "policy_loss"]
