"""How the engine's processes draw a token: by seed and position, not from a stream of the batch."""

import torch

from aslfast.sampler.sglang.scheduler_patches import draw, uniform

ALL = 1 << 30  # SGLang's top_k for "the whole vocabulary"


def test_uniform_is_splitmix64():
    """The first outputs of the generator's published reference for seed 1234567, cut to the 53 bits of a double."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    given = uniform(torch.full((4,), 1234567), torch.arange(1, 5))
    assert given.tolist() == [(word >> 11) * 2.0**-53 for word in expected]


def test_neighbouring_seeds_and_positions_are_independent():
    """Mean, variance and the correlation of neighbours, each within 5 standard errors over 10,000 numbers."""
    seed_B, position_B = torch.arange(10_000) // 100, torch.arange(10_000) % 100
    grid = uniform(seed_B, position_B).view(100, 100)
    assert abs(grid.mean() - 0.5) < 5 * (1 / 12 / 1e4) ** 0.5
    assert abs(grid.var() - 1 / 12) < 5 * (1 / 180 / 1e4) ** 0.5
    for one, next_one in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), next_one.flatten()]))[0, 1]) < 5 / 1e2


def test_draws_follow_the_probabilities_of_each_row():
    n = 20_000
    probs_BV = torch.tensor([[0.5, 0.0, 0.2, 0.3, 0.0]]).repeat(n, 1)
    token_B = draw(probs_BV, torch.full((n,), ALL), torch.arange(n), torch.full((n,), 77))
    share = torch.bincount(token_B, minlength=5) / n
    assert share[[1, 4]].tolist() == [0.0, 0.0]
    assert ((share - probs_BV[0]).abs() <= 5 * (probs_BV[0] * (1 - probs_BV[0]) / n).sqrt()).all()


def test_a_row_draws_the_same_alone_and_in_a_batch_and_top_1_is_greedy():
    torch.manual_seed(0)
    probs_BV = torch.randn(64, 300).softmax(-1)
    top_k_B = torch.where(torch.arange(64) % 4 == 0, 1, ALL)
    seed_B, position_B = torch.randint(0, 1 << 62, (64,)), torch.randint(0, 10_000, (64,))
    together = draw(probs_BV, top_k_B, seed_B, position_B)
    alone = [draw(probs_BV[i : i + 1], top_k_B[i : i + 1], seed_B[i : i + 1], position_B[i : i + 1]) for i in range(64)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert together[::4].tolist() == probs_BV[::4].argmax(-1).tolist()
    assert together[1::4].tolist() != probs_BV[1::4].argmax(-1).tolist()
