"""Drawing one token per sequence from its own random number."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def draw_tokens(
    logits_BV: torch.Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [B] and their float32 log-probs [B] under softmax(logits / temperature), full vocabulary.

    By inverse transform sampling: the first token whose cumulative probability exceeds the sequence's uniform number in
    [0, 1), summed in float64, because 150k float32 additions drift. So a sequence's token depends on its own logits
    and number alone. Temperature 0 takes the most probable token and its log-prob at temperature 1.
    """
    device = logits_BV.device
    temperature_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=device)
    logprob_BV = (logits_BV.float() / temperature_B1).log_softmax(-1)
    cumulative_BV = logprob_BV.exp().cumsum(-1, dtype=torch.float64)
    uniform_B1 = torch.tensor([[u] for u in uniforms], dtype=torch.float64, device=device)
    target_B1 = uniform_B1 * cumulative_BV[:, -1:]  # the sum is 1 up to rounding
    token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True).clamp_(max=logits_BV.shape[1] - 1)
    if not all(temperatures):
        greedy_B1 = torch.tensor([[t == 0] for t in temperatures], device=device)
        token_B1 = torch.where(greedy_B1, logprob_BV.argmax(-1, keepdim=True), token_B1)
    return token_B1[:, 0], logprob_BV.gather(-1, token_B1)[:, 0]
