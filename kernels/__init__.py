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
from .logprobs.logprob import linear_logprob, logprob
from .losses.policy_loss import PolicyMetrics, policy_loss

__all__ = ["PolicyMetrics", "group_advantage", "linear_logprob", "logprob", "policy_loss"]
