"""The tables `loss` and `advantage` of a configuration, and what of them excludes each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aslfast.config.bounds import fraction, named, number, positive
from aslfast.limits import MOST_TOKENS

GROUP_KEYS = ("prompt", "hops", "role", "player", "batch")
RESCALES = ("", "usable_groups")
MOVING = ("moving", "fifo_median")  # baselines over steps


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The formulas are in docs/recipes/losses.md; what makes which algorithm, in recipes/algorithms."""

    # "ppo": clipped surrogate; "cispo": clipped weights; "nft": negative-aware fine-tuning; "sft": successes alone;
    # "squared": a trajectory's log-ratio regresses on its advantage
    kind: Literal["ppo", "cispo", "nft", "sft", "squared"] = "ppo"
    # "sequence": one ratio a trajectory (GSPO); "sequence_token": that ratio, each token with its own gradient
    ratio_level: Literal["token", "sequence", "sequence_token"] = "token"
    clip_low: float = fraction(0.2)
    clip_high: float = number(0.28, 0.0, 1e9)
    dual_clip: float = number(0.0, 1.0, 1e9, open_low=True, or_zero=True)
    kl_coef: float = number(0.0, 0.0, 1e6)  # weight of the KL to the base
    kl_estimator: Literal["k3", "k2"] = "k3"  # as a loss; "k2": half the squared log-ratio
    tis_cap: float = number(0.0, 0.0, 1e9)  # highest importance weight for the sampler's log-probs; 0: off
    aggregate: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    trajectory_tokens: int = positive(1024, MOST_TOKENS)  # aggregate "constant": what a trajectory is divided by
    tis_floor: float = number(0.0, 0.0, 1e9)  # lowest importance weight
    # one weight a token, or one a trajectory: the product of its tokens' or, "geometric", their geometric mean
    tis_level: Literal["token", "sequence", "geometric"] = "token"
    tis_mode: Literal["truncate", "mask"] = "truncate"  # weights beyond floor and cap become those, or 0
    cov_fraction: float = fraction(0.0)  # of the loss tokens, those that clip-cov takes out; 0: off
    cov_low: float = number(1.0, -1e6, 1e6)  # from among tokens of a covariance between these two
    cov_high: float = number(40.0, -1e6, 1e6)
    # a trajectory is a success, for nft, sft and sft_coef, if its reward, or its advantage, is above success_above
    success: Literal["reward", "advantage"] = "reward"
    success_above: float = number(0.5, -1e6, 1e6)
    sft_coef: float = number(0.0, 0.0, 1e6)  # weight of the negative log-likelihood of successes, added to the loss
    # of a group with the success rate q: "linear": 1 - q; "root": sqrt((1 - q) / q); "one": 1
    nft_weight: Literal["linear", "root", "one"] = "linear"


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """The formulas are in docs/recipes/losses.md."""

    # "moving": mean of earlier rewards of the key, by decay; "fifo_median": median of the last groups' mean rewards
    baseline: Literal["mean", "leave_one_out", "none", "moving", "fifo_median"] = "mean"
    scale: Literal["group", "batch", "whitened", "none"] = "group"
    drop_zero_variance: bool = True  # leave out groups of equal rewards (DAPO); False: they count in the loss's mean
    # the trajectories that a reward is compared with: those of the same prompt, hops, role, player or step
    group_by: str = named("prompt", GROUP_KEYS)
    singleton: Literal["zero", "reward"] = "zero"  # advantage of a trajectory that is alone in its group
    decay: float = number(0.95, 0.0, 1.0, open_high=True)  # baseline "moving"
    history: int = positive(10_240, 1_000_000)  # baseline "fifo_median": groups
    keep_groups: float = number(1.0, 0.0, 1.0, open_low=True)  # share of a step's groups, those of the largest std
    rescale: str = named("", RESCALES)  # "usable_groups": times groups / groups of unequal rewards


Conflict = tuple[tuple[str, ...], str]  # the keys of settings that exclude each other, and what to do


def conflicts(loss: LossConfig, advantage: AdvantageConfig) -> Iterator[Conflict]:
    """Yield what excludes each other; the first of the keys that an option set is to blame."""
    if loss.kind != "ppo":
        yield from _of_other_kinds(loss)
    if loss.kind == "nft" and loss.success != "reward":
        yield ("loss.success", "loss.kind"), "loss.success is 'advantage'; with loss.kind=nft set it to reward"
    if loss.kind == "squared" and loss.aggregate != "sequence_mean":
        what = f"loss.aggregate is {loss.aggregate!r}; with loss.kind=squared, one value a trajectory, set it to"
        yield ("loss.aggregate", "loss.kind"), f"{what} sequence_mean"
    yield from _of_importance_weights(loss)
    if loss.cov_low >= loss.cov_high:
        what = f"loss.cov_low is {loss.cov_low:g}; it must be below loss.cov_high, {loss.cov_high:g}"
        yield ("loss.cov_low", "loss.cov_high"), what
    if advantage.baseline in MOVING and advantage.group_by == "prompt":
        what = f"advantage.baseline is {advantage.baseline!r}, and a prompt is seen once; set advantage.group_by to one"
        yield ("advantage.baseline", "advantage.group_by"), f"{what} of {', '.join(GROUP_KEYS[1:])}"


def _of_other_kinds(loss: LossConfig) -> Iterator[Conflict]:
    """Yield what only a surrogate with a ratio and an advantage has a use for."""
    neutral: dict[str, object] = {"dual_clip": 0}
    if loss.kind != "cispo":
        neutral |= {"ratio_level": "token", "tis_cap": 0, "cov_fraction": 0}
    for key, value in neutral.items():
        if getattr(loss, key) != value:
            of = "kind ppo alone" if key == "dual_clip" else "kinds ppo and cispo"
            what = f"loss.{key} is of {of}; with loss.kind={loss.kind} set it to {value}"
            yield (f"loss.{key}", "loss.kind", "algorithm"), what


def _of_importance_weights(loss: LossConfig) -> Iterator[Conflict]:
    keys = ("loss.tis_floor", "loss.tis_level", "loss.tis_mode")
    if not loss.tis_cap and (loss.tis_floor, loss.tis_level, loss.tis_mode) != (0.0, "token", "truncate"):
        what = f"{', '.join(keys)} are of use only with loss.tis_cap; set it above 0, for example to 2"
        yield (*keys, "loss.tis_cap"), what
    if loss.tis_cap and loss.tis_floor >= loss.tis_cap:
        what = f"loss.tis_floor is {loss.tis_floor:g}; it must be below loss.tis_cap, {loss.tis_cap:g}"
        yield ("loss.tis_floor", "loss.tis_cap"), what
