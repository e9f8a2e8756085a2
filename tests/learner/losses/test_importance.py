"""Importance weights for the sampler's log-probs: by hand, by a plain loop in float64, by TRL's and verl's own code."""

import math
from types import SimpleNamespace

import pytest
import torch

from aslfast.config.learning import LossConfig
from aslfast.learner.loss import LossInputs, loss_of
from aslfast.learner.losses.importance import importance_weights
from tests.support.learner.peer_code import block_that_assigns, functions

LENGTHS = (1, 7, 3, 12, 2, 30)
CONFIGS = [
    LossConfig(tis_cap=cap, tis_floor=floor, tis_level=level, tis_mode=mode)
    for level in ("token", "sequence", "geometric")
    for mode, floor, cap in (("truncate", 0.0, 1.2), ("truncate", 0.8, 1.2), ("mask", 0.0, 1.2), ("mask", 0.7, 1.4))
]
named = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.tis_level}-{c.tis_mode}-{c.tis_floor:g}-{c.tis_cap:g}"
)


def ragged():
    """(log-probs under the learner and the sampler [L], trajectory of each token [L]), float64."""
    g = torch.Generator().manual_seed(3)
    sequence_L = torch.repeat_interleave(torch.tensor(LENGTHS))
    sampler_L = -3 * torch.rand(len(sequence_L), generator=g, dtype=torch.float64)
    return sampler_L + 0.3 * torch.randn(len(sequence_L), generator=g, dtype=torch.float64), sampler_L, sequence_L


def ours(config):
    learner_L, sampler_L, sequence_L = ragged()
    return importance_weights(learner_L - sampler_L, sequence_L, config)


def by_loop(config):
    """The published formula, a trajectory at a time."""
    learner_L, sampler_L, _ = ragged()
    found, start = [], 0
    for n in LENGTHS:
        ratios = [float(learner_L[i] - sampler_L[i]) for i in range(start, start + n)]
        start += n
        if config.tis_level == "sequence":
            ratios = [math.fsum(ratios)] * n
        elif config.tis_level == "geometric":
            ratios = [math.fsum(ratios) / n] * n
        for weight in map(math.exp, ratios):
            if config.tis_mode == "truncate":
                found.append(min(max(weight, config.tis_floor), config.tis_cap))
            else:
                found.append(weight if config.tis_floor <= weight <= config.tis_cap else 0.0)
    return torch.tensor(found, dtype=torch.float64)


@named
def test_weights_are_the_published_formula(config):
    wanted = by_loop(config)
    assert 0 < int((wanted != ours(LossConfig(tis_cap=1e9, tis_level=config.tis_level))).sum()) < len(wanted)
    torch.testing.assert_close(ours(config), wanted, rtol=1e-12, atol=1e-12)


def test_weights_by_hand():
    """Two trajectories: ratios 2 and 1/2, whose product is 1; and 3 alone."""
    ratio_L, sequence_L = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64).log(), torch.tensor([0, 0, 1])

    def weights(level, mode, floor, cap):
        config = LossConfig(tis_cap=cap, tis_floor=floor, tis_level=level, tis_mode=mode)
        return importance_weights(ratio_L, sequence_L, config).tolist()

    assert weights("token", "mask", 0.6, 2.5) == pytest.approx([2.0, 0.0, 0.0])
    assert weights("token", "truncate", 0.6, 2.5) == pytest.approx([2.0, 0.6, 2.5])
    assert weights("sequence", "mask", 0.6, 2.5) == pytest.approx([1.0, 1.0, 0.0])
    assert weights("sequence", "truncate", 0.0, 2.5) == pytest.approx([1.0, 1.0, 2.5])
    assert weights("geometric", "truncate", 1.5, 4.0) == pytest.approx([1.5, 1.5, 3.0])


@named
@pytest.mark.parametrize("kind", ["ppo", "cispo"])
def test_the_gradient_is_weight_times_advantage(config, kind):
    """d loss / d logp_t = -w_t A_t / N: the old policy is the learner itself, and a masked token counts in N."""
    learner_L, sampler_L, sequence_L = ragged()
    logp_L, advantage_S = learner_L.clone().requires_grad_(), torch.tensor([1.0, -0.5, 2.0, 0.3, -1.5, 0.7]).double()
    loss_of(
        LossInputs(logp_L, sampler_L, None, sequence_L, advantage_S, float(len(logp_L))),
        LossConfig(kind, tis_cap=config.tis_cap, tis_floor=config.tis_floor, tis_level=config.tis_level,
                   tis_mode=config.tis_mode),
    )[0].backward()  # fmt: skip
    wanted = -by_loop(config) * advantage_S[sequence_L] / len(logp_L)
    torch.testing.assert_close(logp_L.grad, wanted, rtol=1e-12, atol=1e-14)


def test_a_run_away_token_stays_finite():
    config = LossConfig(tis_cap=1e9, tis_level="sequence")
    weights = importance_weights(torch.tensor([500.0, 1.0, -900.0]), torch.tensor([0, 0, 1]), config)
    assert weights.tolist() == pytest.approx([math.exp(20), math.exp(20), math.exp(-20)])


# --- the peers' own code, where they are installed -----------------------------------------------------------------


def padded(value_L):
    """[B, T], 0 where a trajectory has ended."""
    return torch.nn.utils.rnn.pad_sequence(value_L.split(LENGTHS), batch_first=True)


def flat(value_BT):
    return torch.cat([row[:n] for row, n in zip(value_BT, LENGTHS, strict=True)])


@named
def test_weights_are_those_of_trl(config):
    if config.tis_level == "geometric":
        pytest.skip("TRL has no geometric mean")
    block = block_that_assigns(
        "trl", "trainer/grpo_trainer.py", "vllm_importance_sampling_ratio",
        "self.use_vllm and self.vllm_importance_sampling_correction",
    )  # fmt: skip
    learner_L, sampler_L, _ = ragged()
    trainer = SimpleNamespace(
        vllm_importance_sampling_mode=f"{config.tis_level}_{config.tis_mode}",
        vllm_importance_sampling_clip_min=config.tis_floor or None,
        vllm_importance_sampling_clip_max=config.tis_cap,
    )
    scope = {
        "torch": torch, "math": math, "self": trainer, "tool_mask": None,
        "completion_mask": padded(torch.ones_like(learner_L)),
        "old_per_token_logps": padded(learner_L), "sampling_per_token_logps": padded(sampler_L),
    }  # fmt: skip
    exec(block, scope)
    theirs_BT = scope["vllm_importance_sampling_ratio"].expand(len(LENGTHS), max(LENGTHS))
    torch.testing.assert_close(ours(config), flat(theirs_BT), rtol=0, atol=1e-6)


@named
def test_weights_are_those_of_verl(config):
    if config.tis_level == "geometric" or (config.tis_mode == "truncate") == bool(config.tis_floor):
        pytest.skip("verl truncates at a cap alone, masks by two bounds, and has no geometric mean as a weight")
    sums = functions("verl", "utils/torch_functional.py", ["masked_sum", "masked_mean"])
    helpers = functions(
        "verl", "trainer/ppo/rollout_corr_helper.py",
        ["_parse_rollout_is_threshold", "compute_rollout_correction_weights"],
        verl_F=SimpleNamespace(**sums), SAFETY_BOUND=20.0, compute_is_metrics=lambda **_: {},
    )  # fmt: skip
    learner_L, sampler_L, _ = ragged()
    bounds = config.tis_cap if config.tis_mode == "truncate" else f"{config.tis_floor}_{config.tis_cap}"
    theirs_BT, _ = helpers["compute_rollout_correction_weights"](
        padded(learner_L - sampler_L), padded(torch.ones_like(learner_L)), config.tis_level, bounds
    )
    torch.testing.assert_close(ours(config), flat(theirs_BT), rtol=0, atol=1e-6)
