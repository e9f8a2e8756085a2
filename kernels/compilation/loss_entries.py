"""The configurations of the advantage and the policy loss that the report compiles: the smallest and the largest.

Aligned is what a launch allocates itself; with ragged sizes, the largest is compiled again.
"""

from __future__ import annotations

from typing import Any

from ..advantages import fused as advantages
from ..cards import Card
from ..losses import fused as losses
from ..losses.reference import KL_KINDS
from .entry import Entry

LOSS_OWN = ("gradient_ptr", "loss_ptr", "divisor_ptr", "metrics_ptr", "tokens_ptr", "partial_ptr", "counters_ptr")
LOSS_OWN += ("size_ptr", "summed_ptr", "largest_ptr", "gain_ptr")


def advantage_entries(card: Card) -> list[Entry]:
    """Return the advantage of groups, and of a batch with tokens."""
    types = dict.fromkeys(("reward_ptr", "advantage_ptr", "token_advantage_ptr"), "*fp32")
    types |= {"group_ptr": "*i64", "first_bad_ptr": "*i32", "counters_ptr": "*i32", "n": "i32", "tokens": "i32"}
    sizes = {name: getattr(advantages, name) for name in ("ROWS", "COLS", "BLOCK")}
    variants = [
        ("mean, group", {}, {"BASELINE": "mean", "SCALE": "group"}),
        ("leave_one_out, batch, tokens", {"sequence_ptr": "*i64"}, {"BASELINE": "leave_one_out", "SCALE": "batch"}),
    ]
    kernel = advantages.advantage_kernel
    entries = [
        _entry(
            f"advantage: {name}", kernel, types | more, sizes | {"EPS": 1e-6} | flags, card.options(advantages.WARPS)
        )
        for name, more, flags in variants
    ]
    own = ("advantage_ptr", "token_advantage_ptr", "first_bad_ptr", "counters_ptr")
    return [*entries, entries[-1].with_ragged(own)]


def policy_loss_entries(card: Card) -> list[Entry]:
    """Return the loss by token without and with options, by sequence with every KL estimate, and its backward."""
    floats = ("logp_ptr", "old_ptr", "advantage_ptr", "gradient_ptr", "loss_ptr", "divisor_ptr", "metrics_ptr")
    plain = dict.fromkeys(floats, "*fp32") | dict.fromkeys(("clip_floor", "clip_ceiling", "kl_coef"), "fp32")
    plain |= {"tokens_ptr": "*i64", "partial_ptr": "*fp64", "counters_ptr": "*i32", "tokens": "i32", "n_slots": "i32"}
    full = plain | dict.fromkeys(("tis_cap", "dual_clip", "normalizer"), "fp32")
    full |= {"ref_ptr": "*fp32", "sampler_ptr": "*fp32", "mask_ptr": "*u8", "sequence_ptr": "*i64"}
    means = full | {"size_ptr": "*i32"}
    ratios = means | {"summed_ptr": "*i64", "largest_ptr": "*i32", "gain_ptr": "*i64"}
    of_token = means | {"summed_ptr": "*i64"}
    ratios = of_token | {"largest_ptr": "*i32", "gain_ptr": "*i64"}
    by_token, by_sequence = {"MEAN_OF_SEQUENCE": False, "KL": "k3"}, {"MEAN_OF_SEQUENCE": True, "OF_TOKENS": False}
    variants = [
        ("ppo", plain, {"KIND": "ppo", "OF_TOKENS": True} | by_token),
        ("ppo, all options", full, {"KIND": "ppo", "OF_TOKENS": False} | by_token),
        ("cispo, sequence_mean", means, {"KIND": "cispo", "KL": "k3"} | by_sequence),
        ("gspo-token, all options", of_token, {"KIND": "ppo", "KL": "k3"} | by_sequence),
        *((f"gspo, all options, {kl}", ratios, {"KIND": "ppo", "KL": kl} | by_sequence) for kl in KL_KINDS),
    ]
    sizes = {name: getattr(losses, name) for name in ("BLOCK", "PARTIALS", "MAX_PROGRAMS")}
    kernel, options = losses.policy_loss_kernel, card.options(losses.WARPS)
    entries = [_entry(f"policy_loss: {name}", kernel, types, sizes | flags, options) for name, types, flags in variants]
    kernel = losses.policy_loss_backward_kernel
    types = dict.fromkeys(("gradient_ptr", "upstream_ptr", "divisor_ptr", "out_ptr"), "*fp32") | {"tokens": "i32"}
    backward = _entry("policy_loss: backward", kernel, types, {"BLOCK": sizes["BLOCK"]}, options)
    ragged = entries[-1].with_ragged(LOSS_OWN), backward.with_ragged(("gradient_ptr", "divisor_ptr"))
    return [*entries, backward, *ragged]


def _entry(name: str, kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any]) -> Entry:
    """Return the entry; an argument with neither a type nor a constant is absent: None."""
    absent = {argument: None for argument in kernel.arg_names if argument not in types and argument not in constants}
    return Entry(name, kernel, types, absent | constants, options)
