"""Attention over a flat stream of packed trajectories: each token attends to its own trajectory's past alone.

Three backends compute the same result. Each is built once per batch from its segments and called in every layer with
query [T, H, d], key and value [T, Hkv, d] (Hkv divides H) and the factor on the scores; it returns [T, H, d].

flash  the package flash-attn (2, or 3 as flash_attn_interface): variable lengths, half precision, CUDA
flex   torch's FlexAttention with a compiled block mask: CUDA (it has no backward on a CPU)
sdpa   torch's scaled_dot_product_attention over padded buckets of segments of similar lengths: everywhere
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from aslfast.errors import UserError
from aslfast.learner.attention_sdpa import PaddedAttention
from aslfast.learner.batch import Segments
from aslfast.models.context_limit import check_plain_softmax, context_limit

NAME = "aslfast_packed"  # in transformers' registry
FLASH_PACKAGES = ("flash_attn_interface", "flash_attn")  # 3, then 2

Attend = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]


# transformers calls it: its parameters, and `attend`
def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    attend: Attend,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Compute attention for transformers: query [1, H, T, d], key and value [1, Hkv, T, d] -> [1, T, H, d].

    attend: the backend, passed to the model's forward as a keyword. Raise UserError for a model whose attention is
    more than a softmax of scaled products.
    """
    check_plain_softmax(softcap, s_aux, "the packed learner")
    query_THd, key_THd, value_THd = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(query_THd, key_THd, value_THd, scaling)[None], None


AttentionInterface.register(NAME, packed_attention)


class FlashAttention:
    """flash-attn's kernel for sequences of varying lengths.

    A segment with a shared prefix has more keys than queries; the kernel aligns its causal mask to the last key, which
    is the pattern of a segment.
    """

    def __init__(self, segments: Segments) -> None:
        self.key_K = segments.key_K if segments.shared else None
        device = segments.key_K.device
        self.offsets = [_offsets(lengths, device) for lengths in (segments.query_lengths, segments.key_lengths)]
        self.longest = [max(segments.query_lengths), max(segments.key_lengths)]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        if self.key_K is not None:
            key, value = key[self.key_K], value[self.key_K]
        varlen = importlib.import_module(flash_package()).flash_attn_varlen_func
        deterministic = torch.are_deterministic_algorithms_enabled()  # of its backward
        out = varlen(
            query, key, value, *self.offsets, *self.longest, softmax_scale=scale, causal=True,
            deterministic=deterministic,
        )  # fmt: skip
        return out[0] if isinstance(out, tuple) else out  # early versions of 3 return the normalisers too


class FlexAttention:
    """torch's FlexAttention on the flat stream itself: no gather, and blocks without a visible pair are skipped."""

    def __init__(self, segments: Segments) -> None:
        end_T, n = segments.end_T, len(segments.end_T)
        self.on_gpu = end_T.is_cuda
        mask = mask_function(end_T)
        self.mask = create_block_mask(mask, None, None, n, n, device=end_T.device, _compile=self.on_gpu)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        flex = _compiled_flex() if self.on_gpu else flex_attention
        out = cast(Tensor, flex(q, k, v, block_mask=self.mask, scale=scale, enable_gqa=True))
        return out[0].transpose(0, 1)


def mask_function(end_T: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return FlexAttention's mask function: whether token q attends to token k."""

    def mask(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end_T[k])

    return mask


@cache
def _compiled_flex() -> Callable[..., object]:
    return torch.compile(flex_attention, dynamic=True)  # every pack has another length


def _offsets(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return flash-attn's cumulative lengths, from 0 to their sum."""
    ends = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return ends.to(device)


BACKENDS: dict[str, Callable[[Segments, torch.dtype], Attend]] = {
    "flash": lambda segments, _: FlashAttention(segments),
    "flex": lambda segments, _: FlexAttention(segments),
    "sdpa": PaddedAttention,
}


@cache
def flash_package() -> str:
    """Return the installed flash-attn package; empty if there is none."""
    return next((name for name in FLASH_PACKAGES if importlib.util.find_spec(name)), "")


def choose_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend's name; "auto" is flash where it runs, else flex on a GPU, else sdpa. Raise UserError."""
    on_gpu, half = device.type == "cuda", dtype in (torch.float16, torch.bfloat16)
    if wanted == "auto":
        if on_gpu and half and flash_package():
            return "flash"
        return "flex" if on_gpu else "sdpa"
    if wanted == "sdpa" or (wanted == "flex" and on_gpu):
        return wanted
    missing = "" if on_gpu else f"a GPU (the model is on {device.type})"
    if wanted == "flash":
        missing = missing or ("" if half else f"model.dtype bfloat16 or float16 (it is {str(dtype)[6:]})")
        missing = missing or ("" if flash_package() else "the package flash-attn (pip install flash-attn)")
    if missing:
        raise UserError(f"learner.attention={wanted} needs {missing}; install it or use learner.attention=auto")
    return wanted


def check_architecture(base: PreTrainedModel) -> None:
    """Raise UserError for a model whose attention does not go through transformers' interface, or never is causal
    attention over all of the past; `aslfast.models.context_limit` says for how many tokens it is.
    """
    decoder: Any = base.get_decoder()
    context_limit(decoder.config)
    if not getattr(base, "_supports_attention_backend", False):
        what = "a custom attention implementation is not supported by the packed learner"
        raise UserError(f"{base.config.model_type}: {what}; use another base")
