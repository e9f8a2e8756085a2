"""Per-token log-probs from hidden states and the head, as others make them.

Each is name -> function(hidden_LD, weight_VD, target_L) -> log-probs [L]. Rows are loss tokens, selected beforehand,
which favours a side that cannot skip masked ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LogProb = Callable[[Tensor, Tensor, Tensor], Tensor]


def torch_eager(hidden_LD: Tensor, weight_VD: Tensor, target_L: Tensor) -> Tensor:
    """Return log-probs from logits in the inputs' dtype, widened to float32 for the softmax."""
    logits_LV = F.linear(hidden_LD, weight_VD).float()
    return torch.log_softmax(logits_LV, dim=-1).gather(1, target_L[:, None]).squeeze(1)


def _torch_compile() -> LogProb:
    return torch.compile(torch_eager)


def _linear_cross_entropy() -> LogProb:
    fused: Any = F.linear_cross_entropy  # torch 2.13 and newer
    return lambda hidden, weight, target: -fused(hidden, weight, target, reduction="none")


def _liger() -> LogProb:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction as Liger

    return lambda hidden, weight, target: -Liger.apply(hidden, weight, target)


def _cut_cross_entropy() -> LogProb:
    from cut_cross_entropy import linear_cross_entropy

    return lambda hidden, weight, target: -linear_cross_entropy(hidden, weight, target, reduction="none")


def _trl() -> LogProb:
    from trl.kernels import ChunkedLogProbFunction

    chunk = 32768  # TRL's own setting

    def logprob(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return ChunkedLogProbFunction.apply(hidden, weight, None, target, 1.0, chunk, None, 1.0, ("log_probs",))[0]

    return logprob


_MAKERS = {
    "torch eager": lambda: torch_eager,
    "torch.compile": _torch_compile,
    "F.linear_cross_entropy": _linear_cross_entropy,
    "liger-kernel": _liger,
    "cut-cross-entropy": _cut_cross_entropy,
    "TRL": _trl,
}


def peers() -> tuple[dict[str, LogProb], dict[str, str]]:
    """Return the peers that can be imported here, and why the others cannot."""
    found, missing = {}, {}
    for name, make in _MAKERS.items():
        try:
            found[name] = make()
        except (ImportError, AttributeError) as error:
            missing[name] = str(error).splitlines()[0]
    return found, missing
