"""What the local sampler does block by block for a large vocabulary: the head's product, and drawing a token."""

import pytest
import torch
from torch import nn

from aslfast.sampler.local.output_head import MIN_VOCAB, by_parts
from aslfast.sampler.local.sampling import BLOCK, draw_tokens


def of_all(logits, uniforms):
    """Draw from cumulative sums of the whole vocabulary."""
    cumulative = logits.log_softmax(-1).exp().cumsum(-1, dtype=torch.float64)
    target = torch.tensor(uniforms, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


@pytest.mark.parametrize("n_vocab", [BLOCK - 3, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 77])
@pytest.mark.parametrize("sharpness", [0.1, 4.0])
def test_draws_are_those_of_one_cumulative_sum(n_vocab, sharpness):
    torch.manual_seed(n_vocab)
    logits = torch.randn(64, n_vocab) * sharpness
    logits[:, torch.randperm(n_vocab)[:50]] = -200.0  # whole probability 0 in float32
    uniforms = torch.linspace(0, 1 - 1e-9, 64, dtype=torch.float64).tolist()
    token, logprob = draw_tokens(logits, [1.0] * 64, uniforms)
    assert token.tolist() == of_all(logits, uniforms).tolist()
    assert logprob.tolist() == logits.log_softmax(-1)[torch.arange(64), token].tolist()


def test_a_sure_token_in_any_block_is_drawn():
    logits = torch.full((4, 4 * BLOCK), -1e4)
    places = [0, BLOCK - 1, BLOCK, 4 * BLOCK - 1]
    logits[torch.arange(4), places] = 10.0
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert draw_tokens(logits, [1.0, 0.7, 0.0, 1.0], [uniform] * 4)[0].tolist() == places


@pytest.mark.parametrize("n_rows", [1, 5])
def test_the_head_by_parts_is_the_head(n_rows):
    """The error against float64 is at most twice that of the whole product, plus one rounding at the logits' size."""
    torch.manual_seed(0)
    head, hidden = nn.Linear(96, MIN_VOCAB + 5, bias=False), torch.randn(n_rows, 1, 96)
    calls = []
    with torch.no_grad(), by_parts(head):
        calls.append("forward" in vars(head))
        found = head(hidden)
    exact = nn.functional.linear(hidden.double(), head.weight.double())
    own = (nn.functional.linear(hidden, head.weight) - exact).abs().max()
    assert calls == [True] and "forward" not in vars(head)
    assert (found - exact).abs().max() <= 2 * own + torch.finfo(torch.float32).eps * exact.abs().max()


def test_small_and_wrapped_heads_are_left_alone():
    biased, small = nn.Linear(8, MIN_VOCAB), nn.Linear(8, MIN_VOCAB - 1, bias=False)
    for head in (biased, small, nn.Sequential(nn.Linear(8, MIN_VOCAB, bias=False))):
        with by_parts(head):
            assert "forward" not in vars(head)
