"""What the implementations of the log-probs take: the checked tensors of one call, grouped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .vocabulary import Scaling, Shard


@dataclass(frozen=True)
class LinearInputs:
    """Hidden states, head and targets of one `linear_logprob`."""

    hidden_TD: Tensor
    weight_VD: Tensor  # this rank's slice of the vocabulary, as is bias_V
    bias_V: Tensor | None
    target_T: Tensor  # int64 ids of the whole vocabulary
    mask_T: Tensor | None
    scaling: Scaling
    shard: Shard
    autocast: torch.dtype | None = None  # what hidden states and head are rounded to; None: they stay as they are


@dataclass(frozen=True)
class LogitsInputs:
    """Logits and targets of one `logprob`."""

    logits_TV: Tensor  # this rank's slice of the vocabulary
    target_T: Tensor  # int64 ids of the whole vocabulary
    mask_T: Tensor | None
    scaling: Scaling
    temperature_T: Tensor | None  # times the scaling's temperature; None: 1
    shard: Shard

    def scaling_of(self, rows: slice | Tensor) -> Scaling:
        """Return the scaling of some tokens, with their own temperatures."""
        if self.temperature_T is None:
            return self.scaling
        temperature_L1 = self.scaling.temperature * self.temperature_T[rows].unsqueeze(1)
        return Scaling(temperature_L1, self.scaling.softcap)


@dataclass(frozen=True)
class BackwardInputs:
    """What the forward saved and the gradients of its results, [T] each; no entropy: entropy_T is [0]."""

    lse_T: Tensor
    entropy_T: Tensor
    grad_logp_T: Tensor
    grad_entropy_T: Tensor | None
