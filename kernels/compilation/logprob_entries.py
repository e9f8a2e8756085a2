"""The configurations of the log-probs' kernels that the report compiles."""

from __future__ import annotations

from itertools import product
from typing import Any

from ..logprobs import head_kernels, logits_kernels
from .entry import Entry


def head_entries() -> list[Entry]:
    """Return the head in bfloat16 with TMA in every combination; for the others, which share the code, all options."""
    flags = (False, True)
    heads = [
        ("bf16", output, True, bias, softcap, entropy)
        for output, bias, softcap, entropy in product(("statistics", "residual", "gradient"), flags, flags, flags)
        if not (output == "residual" and entropy)  # the residual is saved only where no entropy is asked for
    ]
    for output in ("statistics", "residual", "gradient"):
        rest = (output, False, True, True, output != "residual")
        heads += [("bf16", *rest), ("fp16", output, True, *rest[2:]), ("fp32", *rest)]
    small = [make(flag) for make in (_reduce_entry, _coefficient_entry) for flag in flags]
    return [*(_head_entry(*head) for head in heads), *small]


def logits_entries() -> list[Entry]:
    """Return both kernels with the dtypes of a product, and with and without softcap and entropy."""
    kernels = {"statistics": logits_kernels.statistics_kernel, "gradient": logits_kernels.gradient_kernel}
    kinds = [("bf16", False), ("bf16", True), ("fp16", False), ("fp32", True)]
    return [_logits_entry(part, kernel, *kind) for part, kernel in kernels.items() for kind in kinds]


def _head_entry(dtype: str, output: str, tma: bool, bias: bool, softcap: bool, entropy: bool) -> Entry:
    tiles = dict(head_kernels.TILES[4 if dtype == "fp32" else 2])
    options = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
    flags = {"BIAS": bias, "SOFTCAP": softcap, "ENTROPY": entropy, "TMA": tma}
    signature = _head_signature(dtype, tiles, tma)
    constexprs: dict[str, Any] = tiles | flags | {"OUTPUT": output, "GROUP_T": head_kernels.GROUP_T}
    absent = {"statistics": ["rows_ptr", "out"], "residual": ["rows_ptr"], "gradient": ["partial_ptr", "logit_ptr"]}
    for name in absent[output] + ([] if bias else ["bias_ptr"]):
        del signature[name]
        constexprs[name] = None
    chosen = [dtype, *(name.lower() if name != "TMA" else name for name, on in flags.items() if on)]
    name = f"logprob head: {output}, {', '.join(chosen)}"
    return Entry(name, head_kernels.head_kernel, signature, constexprs, options, is_matrix=dtype != "fp32")


def _head_signature(dtype: str, tiles: dict[str, int], tma: bool) -> dict[str, str]:
    rows, columns, depth = tiles["BLOCK_T"], tiles["BLOCK_V"], tiles["BLOCK_D"]
    blocks = {"hidden": [rows, depth], "weight": [columns, depth], "out": [rows, columns // head_kernels.SLICES]}
    signature = {name: f"tensordesc<{dtype}{block}>" if tma else f"*{dtype}" for name, block in blocks.items()}
    signature |= {"bias_ptr": f"*{dtype}", "target_ptr": "*i64", "rows_ptr": "*fp32", "partial_ptr": "*fp32"}
    signature |= {"logit_ptr": "*fp32", "inverse_temperature": "fp32", "softcap": "fp32"}
    return signature | dict.fromkeys(("T", "V", "D", "hidden_stride", "weight_stride", "out_stride"), "i32")


def _reduce_entry(entropy: bool) -> Entry:
    signature = {"partial_ptr": "*fp32", "statistics_ptr": "*fp32", "T": "i32", "slices": "i32"}
    name = f"logprob reduce{': entropy' if entropy else ''}"
    blocks = {"ENTROPY": entropy, "ROWS": head_kernels.REDUCE["ROWS"], "BLOCK": head_kernels.REDUCE["BLOCK"]}
    options = {"num_warps": head_kernels.REDUCE["num_warps"]}
    return Entry(name, head_kernels.reduce_kernel, signature, blocks, options)


def _coefficient_entry(softcap: bool) -> Entry:
    signature = {"out_ptr": "*bf16", "partial_ptr": "*fp32", "lse_ptr": "*fp32", "logp_ptr": "*fp32"}
    signature |= {"target_ptr": "*i64", "T": "i32", "V": "i32", "out_stride": "i32"}
    signature["slope_ptr"] = "*fp32"
    width = head_kernels.TILES[2]["BLOCK_V"] // head_kernels.SLICES
    constexprs = {"SOFTCAP": softcap, "ROWS": head_kernels.COEFFICIENT_ROWS, "WIDTH": width}
    name = f"logprob coefficients{': softcap' if softcap else ''}"
    return Entry(name, head_kernels.coefficient_kernel, signature, constexprs, {"num_warps": 4})


def _logits_entry(part: str, kernel: Any, dtype: str, full: bool) -> Entry:
    """Return one of the two kernels; full: with softcap and entropy."""
    signature = dict.fromkeys(("T", "V", "stride", "out_stride"), "i32")
    signature |= {"logits_ptr": f"*{dtype}", "out_ptr": f"*{dtype}", "target_ptr": "*i64", "rows_ptr": "*fp32"}
    signature |= {"statistics_ptr": "*fp32", "inverse_temperature": "fp32", "softcap": "fp32"}
    own = {name: kind for name, kind in signature.items() if name in kernel.arg_names}
    name = f"logprob from logits: {part}, {dtype}{', softcap, entropy' if full else ''}"
    constexprs = {"SOFTCAP": full, "ENTROPY": full, "BLOCK": logits_kernels.BLOCK}
    return Entry(name, kernel, own, constexprs, logits_kernels.OPTIONS)
