"""The policy losses as a loop over tokens in Python floats, with the gradient written out by hand, and a batch."""

import math

import torch

from aslfast_kernels import policy_loss

SEQUENCES = [0] * 12 + [-1] * 2 + [1] * 5 + [2] * 1 + [3] * 20 + [5] * 17 + [-1] * 3  # sequence 4 is absent


def batch(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.tensor(SEQUENCES)
    tokens = len(ids)
    old = -3 * torch.rand(tokens, generator=g, dtype=torch.float64)
    columns = {
        "logp_T": old + 0.5 * torch.randn(tokens, generator=g, dtype=torch.float64),
        "old_logp_T": old,
        "ref_logp_T": old + 0.4 * torch.randn(tokens, generator=g, dtype=torch.float64),
        "sampler_logp_T": old + 0.3 * torch.randn(tokens, generator=g, dtype=torch.float64),
        "advantage": torch.randn(tokens, generator=g, dtype=torch.float64),
    }
    columns = {name: value.to(dtype) for name, value in columns.items()}
    return columns | {"sequence_ids_T": ids, "mask_T": torch.rand(tokens, generator=g) < 0.7}


def k3(log_ratio):
    return math.exp(log_ratio) - 1 - log_ratio


# By d = logp - ref: the estimate of KL(new || reference), and its slope by logp.
KL = {
    "k1": lambda d: (d, 1.0),
    "k2": lambda d: (d * d / 2, d),
    "k3": lambda d: (k3(-d), 1 - math.exp(-d)),
    "abs": lambda d: (abs(d), math.copysign(1.0, d)),
    "k1+": lambda d: (d, d),
    "k3+": lambda d: (k3(-d), d),
}


# More than 6 parameters: those of a case.
def naive(
    b, *, low=0.2, high=0.2, dual=None, beta=0.0, kl="k3", level="token", kind="ppo", cap=None, aggregate, normalizer
):
    """Return loss, gradient [T], sum of |terms|, clip fraction, approximate KL, ratio extremes, KL to the reference."""
    new, old, ref, sampler, advantage = (
        b[n].double().tolist() for n in ("logp_T", "old_logp_T", "ref_logp_T", "sampler_logp_T", "advantage")
    )
    ids, mask = b["sequence_ids_T"].tolist(), b["mask_T"].tolist()
    kept = [t for t in range(len(new)) if mask[t] and ids[t] >= 0]
    members = {s: [t for t in kept if ids[t] == s] for s in {ids[t] for t in kept}}
    part = {t: 1 / len(members[ids[t]]) if aggregate == "sequence_mean" else 1.0 for t in kept}
    loss, size, gradient, clipped, ratios = 0.0, 0.0, [0.0] * len(new), 0, []
    for t in kept:
        mates = members[ids[t]] if level != "token" else [t]
        ratio = math.exp(sum(new[m] - old[m] for m in mates) / len(mates))
        ratios.append(ratio)
        inside = min(max(ratio, 1 - low), 1 + high)
        weight = part[t] / normalizer
        tis = 1.0 if cap is None else min(math.exp(old[t] - sampler[t]), cap)
        a = advantage[t]
        if kind == "cispo":
            clipped += inside != ratio
            value = weight * tis * -inside * a * new[t]
            gradient[t] += weight * tis * -inside * a
        else:
            value, moves = -ratio * a, True
            if (a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low):
                value, moves = -inside * a, False
            if dual is not None and a < 0 and ratio > dual:
                value, moves = -dual * a, False
            clipped += not moves
            value *= weight * tis
            mates = [t] if level == "sequence_token" else mates
            for m in mates if moves else []:
                gradient[m] += value / len(mates)
        estimate, slope = (weight * beta * x for x in KL[kl](new[t] - ref[t]))
        loss, size = loss + value + estimate, size + abs(value) + abs(estimate)
        gradient[t] += slope
    count = len(kept)
    approx_kl = sum(k3(new[t] - old[t]) for t in kept) / count
    kl_ref = sum(KL[kl](new[t] - ref[t])[0] for t in kept) / count
    return loss, gradient, size, clipped / count, approx_kl, min(ratios), max(ratios), kl_ref


CASES = {
    "grpo": {},
    "dapo": {"high": 0.28},
    "dual clip": {"dual": 1.5},
    "no upper clip": {"high": math.inf},
    "cispo, no lower clip": {"kind": "cispo", "low": math.inf, "high": 0.3},
    "kl": {"beta": 0.3},
    "kl k1": {"beta": 0.3, "kl": "k1"},
    "kl k2": {"beta": 0.3, "kl": "k2"},
    "kl abs": {"beta": 0.3, "kl": "abs"},
    "kl k1 straight through": {"beta": 0.3, "kl": "k1+"},
    "gspo, kl k3 straight through": {"level": "sequence", "low": 0.05, "high": 0.05, "beta": 0.3, "kl": "k3+"},
    "gspo": {"level": "sequence", "low": 0.05, "high": 0.05},
    "gspo-token": {"level": "sequence_token", "low": 0.05, "high": 0.05},
    "gspo dual kl tis": {"level": "sequence", "low": 0.02, "high": 0.04, "dual": 1.1, "beta": 0.1, "cap": 1.2},
    "cispo": {"kind": "cispo", "low": 0.9, "high": 0.3},
    "cispo sequence kl": {"kind": "cispo", "level": "sequence", "low": 0.3, "high": 0.1, "beta": 0.2},
    "tis": {"cap": 1.3},
}


def options_of(case):
    names = {"low": "clip_low", "high": "clip_high", "dual": "dual_clip", "beta": "kl_coef", "level": "ratio_level"}
    names |= {"cap": "tis_cap", "kl": "kl_kind"}
    return {names.get(k, k): v for k, v in case.items()}


def call(b, case, **more):
    """Call policy_loss on the batch, without the sampler's log-probs unless the case truncates by them."""
    arguments = dict(b) if "cap" in case else {k: v for k, v in b.items() if k != "sampler_logp_T"}
    return policy_loss(**arguments, **options_of(case), **more)
