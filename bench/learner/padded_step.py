"""The step most trainers take, as a baseline: a padded batch, all logits, one backward through them.

After TRL's GRPOTrainer: prompts padded on the left, what follows on the right, micro-batches of so many rows, logits of
every position after the prompt held whole, log-softmax in the model's dtype, the same clipped loss as ours. With
`by_length` rows are sorted first, which TRL does not do by itself: it pads less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aslfast.core import Trajectory


class PaddedStep:
    """Forward and backward of one optimizer step over `model`'s active adapter."""

    def __init__(self, model: Any, temperature: float, rows: int, by_length: bool, clip: tuple[float, float]) -> None:
        self.model, self.temperature, self.rows, self.by_length, self.clip = model, temperature, rows, by_length, clip

    def accumulate(self, trajectories: Sequence[Trajectory], advantages: Sequence[float], live: float) -> None:
        pairs = list(zip(trajectories, advantages, strict=True))
        if self.by_length:
            pairs.sort(key=lambda pair: len(pair[0].token_ids))
        for i in range(0, len(pairs), self.rows):
            self.loss(pairs[i : i + self.rows], live).backward()

    def loss(self, pairs: Sequence[tuple[Trajectory, float]], live: float) -> Tensor:
        starts = [t.loss_mask.index(1) for t, _ in pairs]
        left, right = max(starts), max(len(t.token_ids) - n for (t, _), n in zip(pairs, starts, strict=True))
        widths = (left + right, left + right, right, right)
        ids_BT, seen_BT, live_BC, old_BC = (torch.zeros(len(pairs), n) for n in widths)
        for row, ((t, _), n) in enumerate(zip(pairs, starts, strict=True)):
            own = slice(left - n, left - n + len(t.token_ids))
            ids_BT[row, own], seen_BT[row, own] = torch.tensor(t.token_ids).float(), 1
            live_BC[row, : len(t.token_ids) - n] = torch.tensor(t.loss_mask[n:]).float()
            old_BC[row, : len(t.token_ids) - n] = torch.tensor(t.logprobs[n:])
        device = self.model.device
        logp_BC = self.logprobs(ids_BT.long().to(device), seen_BT.long().to(device), right)
        ratio_BC = (logp_BC - old_BC.to(device)).exp()
        a_B1 = torch.tensor([a for _, a in pairs], device=device)[:, None]
        clipped_BC = ratio_BC.clamp(1 - self.clip[0], 1 + self.clip[1])
        return -(torch.minimum(ratio_BC * a_B1, clipped_BC * a_B1) * live_BC.to(device)).sum() / live

    def logprobs(self, ids_BT: Tensor, seen_BT: Tensor, n_last: int) -> Tensor:
        """[B, n_last] of the last tokens of each row."""
        hidden_BCD = self.hidden(ids_BT, seen_BT)[:, -n_last - 1 : -1]
        logits_BCV = self.model.get_base_model().get_output_embeddings()(hidden_BCD) / self.temperature
        chosen_BC = logits_BCV.gather(-1, ids_BT[:, -n_last:, None])[..., 0]
        return (chosen_BC - logits_BCV.logsumexp(-1)).float()

    def hidden(self, ids_BT: Tensor, seen_BT: Tensor) -> Tensor:
        decoder, dtype = self.model.get_base_model().get_decoder(), self.model.get_base_model().dtype
        with torch.autocast(ids_BT.device.type, dtype, enabled=dtype == torch.bfloat16):
            return decoder(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False).last_hidden_state
