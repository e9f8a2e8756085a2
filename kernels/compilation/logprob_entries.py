"""The configurations of the log-probs' kernels that the report compiles, for one card."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from ..cards import Card
from ..logprobs import head_kernels, logits_kernels
from .entry import Entry

OUTPUTS = ("statistics", "residual", "gradient")
# What `Head` allocates itself, and in 16 bit the rows that `tiled_rows` arranges.
OWN = ("rows_ptr", "partial_ptr", "logit_ptr", "out", "out_stride")
TILED = (*OWN, "hidden", "weight", "D", "hidden_stride", "weight_stride")


class _Head(NamedTuple):
    dtype: str
    output: str
    bias: bool = True
    softcap: bool = True
    entropy: bool = True


def largest_head_entries(card: Card) -> list[Entry]:
    """Return the head with all options for every output, in bfloat16 and, with ragged rows, in float32."""
    whole = [_head_entry(card, head) for head in _full_heads("bf16")]
    return [*whole, *(_ragged(card, head) for head in _full_heads("fp32"))]


def head_entries(card: Card) -> list[Entry]:
    """Return the head in bfloat16 in every combination; other dtypes, and ragged sizes, with all options."""
    flags = (False, True)
    heads = [_Head("bf16", *chosen) for chosen in product(OUTPUTS, flags, flags, flags)]
    heads += [*_full_heads("fp16"), *_full_heads("fp32")]
    ragged = [_ragged(card, head) for dtype in ("bf16", "fp16", "fp32") for head in _full_heads(dtype)]
    return [*(_head_entry(card, head) for head in heads), *ragged, *_small_entries(card)]


def logits_entries(card: Card) -> list[Entry]:
    """Return both kernels with the dtypes of a product, with and without softcap and entropy; ragged with both."""
    kernels = {"statistics": logits_kernels.statistics_kernel, "gradient": logits_kernels.gradient_kernel}
    kinds = [("bf16", False), ("bf16", True), ("fp16", False), ("fp32", True)]
    entries = [_logits_entry(card, part, kernel, *kind) for part, kernel in kernels.items() for kind in kinds]
    full = [entry for entry in entries if entry.constexprs["ENTROPY"]]
    return [*entries, *(entry.with_ragged(("rows_ptr", "statistics_ptr")) for entry in full)]


def _full_heads(dtype: str) -> list[_Head]:
    return [_Head(dtype, output) for output in OUTPUTS]


def _ragged(card: Card, head: _Head) -> Entry:
    return _head_entry(card, head).with_ragged(OWN if head.dtype == "fp32" else TILED)


def _head_entry(card: Card, head: _Head) -> Entry:
    itemsize = 4 if head.dtype == "fp32" else 2
    tile, tma = card.tile(itemsize), card.reads_by_tma(itemsize, head.output, head.softcap)
    flags = {"BIAS": head.bias, "SOFTCAP": head.softcap, "ENTROPY": head.entropy, "TMA": tma}
    signature = _head_signature(head.dtype, tile.constexprs(), tma)
    constexprs: dict[str, Any] = tile.constexprs() | flags
    constexprs |= {"OUTPUT": head.output, "GROUP_T": head_kernels.GROUP_T}
    absent = {"statistics": ["rows_ptr", "out"], "residual": ["rows_ptr"], "gradient": ["partial_ptr", "logit_ptr"]}
    for name in absent[head.output] + ([] if head.bias else ["bias_ptr"]):
        del signature[name]
        constexprs[name] = None
    chosen = [head.dtype, *(name.lower() if name != "TMA" else name for name, on in flags.items() if on)]
    name, options = f"logprob head: {head.output}, {', '.join(chosen)}", card.options(tile.warps, tile.stages)
    return Entry(name, head_kernels.head_kernel, signature, constexprs, options, is_matrix=itemsize == 2)


def _head_signature(dtype: str, tile: dict[str, int], tma: bool) -> dict[str, str]:
    rows, columns, depth = tile["BLOCK_T"], tile["BLOCK_V"], tile["BLOCK_D"]
    blocks = {"hidden": [rows, depth], "weight": [columns, depth], "out": [rows, columns // head_kernels.SLICES]}
    signature = {name: f"tensordesc<{dtype}{block}>" if tma else f"*{dtype}" for name, block in blocks.items()}
    signature |= {"bias_ptr": f"*{dtype}", "target_ptr": "*i64", "rows_ptr": "*fp32", "partial_ptr": "*fp32"}
    signature |= {"logit_ptr": "*fp32", "inverse_temperature": "fp32", "softcap": "fp32"}
    return signature | dict.fromkeys(("T", "V", "D", "hidden_stride", "weight_stride", "out_stride"), "i32")


def _small_entries(card: Card) -> list[Entry]:
    """Return the reduction and the coefficients; with ragged sizes, with all options."""
    reduce = [_reduce_entry(card, entropy) for entropy in (False, True)]
    coefficients = [_coefficient_entry(card, softcap) for softcap in (False, True)]
    own = ("out_ptr", "out_stride", "partial_ptr", "statistics_ptr", "lse_ptr", "logp_ptr")
    return [*reduce, *coefficients, *(entries[-1].with_ragged(own) for entries in (reduce, coefficients))]


def _reduce_entry(card: Card, entropy: bool) -> Entry:
    signature = {"partial_ptr": "*fp32", "statistics_ptr": "*fp32", "T": "i32", "slices": "i32"}
    name = f"logprob reduce{': entropy' if entropy else ''}"
    blocks = head_kernels.REDUCE | {"ENTROPY": entropy}
    return Entry(name, head_kernels.reduce_kernel, signature, blocks, card.options(head_kernels.REDUCE_WARPS))


def _coefficient_entry(card: Card, softcap: bool) -> Entry:
    signature = {"out_ptr": "*bf16", "partial_ptr": "*fp32", "lse_ptr": "*fp32", "logp_ptr": "*fp32"}
    signature |= {"target_ptr": "*i64", "T": "i32", "V": "i32", "out_stride": "i32"}
    signature["slope_ptr"] = "*fp32"
    width = card.half.columns // head_kernels.SLICES
    constexprs = {"SOFTCAP": softcap, "ROWS": head_kernels.COEFFICIENT_ROWS, "WIDTH": width}
    name = f"logprob coefficients{': softcap' if softcap else ''}"
    options = card.options(head_kernels.COEFFICIENT_WARPS)
    return Entry(name, head_kernels.coefficient_kernel, signature, constexprs, options)


def _logits_entry(card: Card, part: str, kernel: Any, dtype: str, full: bool) -> Entry:
    """Return one of the two kernels; full: with softcap, entropy and temperatures of tokens."""
    signature = dict.fromkeys(("T", "V", "stride", "out_stride"), "i32")
    signature |= {"logits_ptr": f"*{dtype}", "out_ptr": f"*{dtype}", "target_ptr": "*i64", "rows_ptr": "*fp32"}
    signature |= {"statistics_ptr": "*fp32", "inverse_temperature": "fp32", "softcap": "fp32"}
    signature |= {"temperature_ptr": "*fp32"} if full else {}
    own = {name: kind for name, kind in signature.items() if name in kernel.arg_names}
    name = f"logprob from logits: {part}, {dtype}{', softcap, entropy, temperatures' if full else ''}"
    constexprs: dict[str, Any] = {"SOFTCAP": full, "ENTROPY": full, "BLOCK": logits_kernels.BLOCK}
    constexprs |= {} if full else {"temperature_ptr": None}
    return Entry(name, kernel, own, constexprs, card.options(logits_kernels.WARPS))
