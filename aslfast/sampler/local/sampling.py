"""Drawing one token per sequence from its own random number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

BLOCK = 1024  # tokens whose probabilities are summed before one of them is looked for


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
    uniform_B1 = torch.tensor([[u] for u in uniforms], dtype=torch.float64, device=device)
    token_B1 = _invert(logprob_BV.exp(), uniform_B1)
    if not all(temperatures):
        greedy_B1 = torch.tensor([[t == 0] for t in temperatures], device=device)
        token_B1 = torch.where(greedy_B1, logprob_BV.argmax(-1, keepdim=True), token_B1)
    return token_B1[:, 0], logprob_BV.gather(-1, token_B1)[:, 0]


def _invert(prob_BV: torch.Tensor, uniform_B1: torch.Tensor) -> torch.Tensor:
    """Return the first token whose cumulative probability exceeds uniform times the sum of all [B, 1].

    Of a large vocabulary, first the block is found and then the token in it: cumulative sums of all, in float64, would
    take four times as long as the softmax.
    """
    if prob_BV.shape[1] <= BLOCK:
        cumulative_BV = prob_BV.cumsum(-1, dtype=torch.float64)
        return _first_above(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:])  # the sum is 1 up to rounding
    sum_BK = torch.stack([block.sum(-1, dtype=torch.float64) for block in prob_BV.split(BLOCK, -1)], -1)
    cumulative_BK = sum_BK.cumsum(-1)
    target_B1 = uniform_B1 * cumulative_BK[:, -1:]
    block_B1 = _first_above(cumulative_BK, target_B1)
    before_B1 = cumulative_BK.gather(1, block_B1) - sum_BK.gather(1, block_B1)
    index_BK = block_B1 * BLOCK + torch.arange(BLOCK, device=prob_BV.device)
    inside_BK = prob_BV.gather(1, index_BK.clamp(max=prob_BV.shape[1] - 1)).double()
    inside_BK.masked_fill_(index_BK >= prob_BV.shape[1], 0)
    token_B1 = block_B1 * BLOCK + _first_above(before_B1 + inside_BK.cumsum(-1), target_B1)
    return token_B1.clamp_(max=prob_BV.shape[1] - 1)


def _first_above(cumulative_BK: torch.Tensor, target_B1: torch.Tensor) -> torch.Tensor:
    """Return the first index whose value is above the target [B, 1]; the last where rounding leaves none."""
    return torch.searchsorted(cumulative_BK, target_B1, right=True).clamp_(max=cumulative_BK.shape[1] - 1)
