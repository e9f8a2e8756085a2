"""The step most trainers take, as a baseline: a padded batch, all logits, one backward through them.

After TRL's GRPOTrainer: prompts padded on the left, what follows on the right, micro-batches of a fixed number of rows,
logits of every position after the prompt materialised, log-softmax in the model's dtype, the same clipped loss as ours.
With `by_length` rows are sorted first, which TRL does not do by itself: less padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from aslfast.core import Trajectory


class PaddedStep:
    """Forward and backward of one optimizer step over `model`'s active adapter."""

    def __init__(
        self, model: PeftModel, temperature: float, rows: int, by_length: bool, clip: tuple[float, float]
    ) -> None:
        self.model, self.temperature, self.rows, self.by_length, self.clip = model, temperature, rows, by_length, clip
        self.base: Any = model.get_base_model()

    def accumulate(
        self, trajectories: Sequence[Trajectory], advantages: Sequence[float], loss_tokens: float
    ) -> None:  # fmt: skip
        """Add the gradient of these trajectories; the loss is a mean over `loss_tokens`."""
        pairs = list(zip(trajectories, advantages, strict=True))
        if self.by_length:
            pairs.sort(key=lambda pair: len(pair[0].token_ids))
        for i in range(0, len(pairs), self.rows):
            self.loss(pairs[i : i + self.rows], loss_tokens).backward()

    def loss(self, pairs: Sequence[tuple[Trajectory, float]], loss_tokens: float) -> Tensor:
        """Return the loss of one micro-batch."""
        starts = [t.loss_mask.index(1) for t, _ in pairs]
        left, right = max(starts), max(len(t.token_ids) - n for (t, _), n in zip(pairs, starts, strict=True))
        widths = (left + right, left + right, right, right)
        ids_BT, attention_mask_BT, loss_mask_BC, old_BC = (torch.zeros(len(pairs), n) for n in widths)
        for row, ((t, _), n) in enumerate(zip(pairs, starts, strict=True)):
            own = slice(left - n, left - n + len(t.token_ids))
            ids_BT[row, own], attention_mask_BT[row, own] = torch.tensor(t.token_ids).float(), 1
            loss_mask_BC[row, : len(t.token_ids) - n] = torch.tensor(t.loss_mask[n:]).float()
            old_BC[row, : len(t.token_ids) - n] = torch.tensor(t.logprobs[n:])
        device = self.model.device
        logp_BC = self.logprobs(ids_BT.long().to(device), attention_mask_BT.long().to(device), right)
        ratio_BC = (logp_BC - old_BC.to(device)).exp()
        a_B1 = torch.tensor([a for _, a in pairs], device=device)[:, None]
        clipped_BC = ratio_BC.clamp(1 - self.clip[0], 1 + self.clip[1])
        return -(torch.minimum(ratio_BC * a_B1, clipped_BC * a_B1) * loss_mask_BC.to(device)).sum() / loss_tokens

    def logprobs(self, ids_BT: Tensor, attention_mask_BT: Tensor, n_last: int) -> Tensor:
        """Return the log-probs of the last tokens of each row [B, n_last]."""
        hidden_BCD = self.hidden(ids_BT, attention_mask_BT)[:, -n_last - 1 : -1]
        logits_BCV = self.base.get_output_embeddings()(hidden_BCD) / self.temperature
        chosen_BC = logits_BCV.gather(-1, ids_BT[:, -n_last:, None])[..., 0]
        return (chosen_BC - logits_BCV.logsumexp(-1)).float()

    def hidden(self, ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Return the last hidden states [B, T, D]."""
        decoder, dtype = self.base.get_decoder(), self.base.dtype
        with torch.autocast(ids_BT.device.type, dtype, enabled=dtype == torch.bfloat16):
            return decoder(input_ids=ids_BT, attention_mask=attention_mask_BT, use_cache=False).last_hidden_state
