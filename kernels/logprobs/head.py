"""Launches over the live tokens of `linear_logprob`, chunk by chunk; `logprob_triton` states the design."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import logprob_head_kernels as kernels
from .logprob_head_kernels import COEFFICIENT_SCALE
from .vocabulary import Scaling, Shard, Statistics

__all__ = ["COEFFICIENT_SCALE", "Head", "dense_rows"]

WORKSPACE_BYTES = 1 << 29  # 1765 rows of a 152,064-token vocabulary in bfloat16
STATISTICS_BYTES = 1 << 26  # 3530 rows of that vocabulary


class Head:
    """The live tokens and the head in one dtype, and the launches over a chunk of these tokens."""

    def __init__(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        mask_T: Tensor | None,
        scaling: Scaling,
        shard: Shard,
    ) -> None:
        dtype = torch.promote_types(hidden_TD.dtype, weight_VD.dtype)
        self.live_L = None if mask_T is None else mask_T.nonzero().squeeze(1)
        if self.live_L is not None:
            hidden_TD, target_T = hidden_TD[self.live_L], target_T[self.live_L]
        self.hidden_LD, self.weight_VD = dense_rows(hidden_TD.to(dtype)), dense_rows(weight_VD.to(dtype))
        self.bias_V = None if bias_V is None else bias_V.contiguous()
        local_L = target_T - shard.start
        self.target_L = torch.where((local_L >= 0) & (local_L < weight_VD.shape[0]), local_L, -1)
        self.scaling, self.largest_V = scaling, shard.largest
        tiles: dict[str, Any] = dict(kernels.TILES[dtype.itemsize])
        self.options = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
        self.tiles = tiles
        self.tma = dtype.itemsize == 2 and _tma_reads(self.hidden_LD) and _tma_reads(self.weight_VD)

    def workspace(self) -> Tensor:
        """Room for one chunk's coefficients; rows begin at multiples of 128 bytes, for TMA and cuBLAS."""
        itemsize, vocabulary = self.weight_VD.element_size(), self.weight_VD.shape[0]
        stride, widest = (_ceil_div(size * itemsize, 128) * 128 for size in (vocabulary, self.largest_V))
        rows = self._even_rows(min(WORKSPACE_BYTES // widest, self._statistics_rows()))
        return self.weight_VD.new_empty(rows, stride // itemsize)[:, :vocabulary]

    def chunks(self, out_LV: Tensor | None) -> list[slice]:
        live = len(self.target_L)
        size = self._even_rows(self._statistics_rows()) if out_LV is None else len(out_LV)
        return [slice(start, min(start + size, live)) for start in range(0, live, max(1, size))]

    def _statistics_rows(self) -> int:
        return STATISTICS_BYTES // (12 * self._slices(self.largest_V))

    def _slices(self, vocabulary: int) -> int:
        return _ceil_div(vocabulary, self.tiles["BLOCK_V"] // kernels.SLICES)

    def _even_rows(self, most: int) -> int:
        """Rows of a chunk: chunks of about one size, of whole tiles where `most` has room for one."""
        live, block, most = len(self.target_L), self.tiles["BLOCK_T"], max(1, most)
        most = most - most % block or most
        rows = _ceil_div(live, max(1, _ceil_div(live, most)))
        return min(_ceil_div(rows, block) * block, live, most)

    def rows(self, chunk: slice) -> slice | Tensor:
        """Where the chunk's live tokens stand among all."""
        return chunk if self.live_L is None else self.live_L[chunk]

    def statistics(
        self, chunk: slice, out_LV: Tensor | None, entropy: bool
    ) -> tuple[tuple[Tensor, Tensor], Statistics]:
        """What `coefficients` needs (statistics of each slice, the target's dz/dx), and the statistics of the whole.

        `out_LV` gets e dz/dx.
        """
        tokens, floats = chunk.stop - chunk.start, {"dtype": torch.float32, "device": self.target_L.device}
        slices = self._slices(self.weight_VD.shape[0])
        partial = torch.empty(3 if entropy else 2, slices, tokens, **floats)
        target_2L = torch.zeros(2, tokens, **floats)
        output = "statistics" if out_LV is None else "residual"
        self._launch(chunk, output, entropy, partial=partial, logit=target_2L, out_LV=out_LV)
        whole = torch.empty(3, tokens, **floats)
        constexprs: dict[str, Any] = kernels.REDUCE | {"ENTROPY": entropy}
        kernels.reduce_kernel[(_ceil_div(tokens, kernels.REDUCE["ROWS"]),)](
            partial, whole, tokens, slices, **constexprs
        )
        weighted = whole[2] if entropy else None
        return (partial, target_2L[1]), Statistics(whole[0], whole[1], weighted, target_2L[0])

    def coefficients(self, chunk: slice, out_LV: Tensor, parts: tuple[Tensor, Tensor], statistics: Statistics) -> None:
        """In place: e dz/dx -> ([v = target] - p) dz/dx, scaled."""
        tokens, (partial, slope) = chunk.stop - chunk.start, parts
        grid = (_ceil_div(tokens, kernels.COEFFICIENT_ROWS), partial.shape[1])
        constexprs: dict[str, Any] = {"SOFTCAP": self.scaling.softcap is not None, "ROWS": kernels.COEFFICIENT_ROWS}
        constexprs |= {"WIDTH": self.tiles["BLOCK_V"] // kernels.SLICES, "num_warps": 4}
        kernels.coefficient_kernel[grid](
            out_LV, partial, statistics.lse(), statistics.logp(), slope, self.target_L[chunk], tokens, out_LV.shape[1],
            out_LV.stride(0), **constexprs,
        )  # fmt: skip

    def gradient(self, chunk: slice, out_LV: Tensor, known_4L: Tensor, entropy: bool) -> None:
        """`out_LV` gets the gradient of the raw logits, without the temperature; see `head_kernel` for `known_4L`."""
        self._launch(chunk, "gradient", entropy, known=known_4L, out_LV=out_LV)

    def _launch(
        self,
        chunk: slice,
        output: str,
        entropy: bool,
        known: Tensor | None = None,
        partial: Tensor | None = None,
        logit: Tensor | None = None,
        out_LV: Tensor | None = None,
    ) -> None:
        hidden_LD, tiles = self.hidden_LD[chunk], self.tiles
        (tokens, width), vocabulary = hidden_LD.shape, self.weight_VD.shape[0]
        sources: list[Any] = [hidden_LD, self.weight_VD, out_LV]
        if self.tma:
            blocks = (tiles["BLOCK_T"], tiles["BLOCK_D"]), (tiles["BLOCK_V"], tiles["BLOCK_D"])
            blocks += ((tiles["BLOCK_T"], tiles["BLOCK_V"] // kernels.SLICES),)
            sources[2] = None if out_LV is None else out_LV[:tokens]  # TMA's own bounds cut off the rows beyond
            sources = [
                None if source is None else TensorDescriptor.from_tensor(source, list(block))
                for source, block in zip(sources, blocks, strict=True)
            ]
        hidden, weight, out = sources
        count = _ceil_div(tokens, tiles["BLOCK_T"]) * _ceil_div(vocabulary, tiles["BLOCK_V"])
        programs = min(count, _multiprocessors(self.weight_VD))
        flags: dict[str, Any] = {
            "BIAS": self.bias_V is not None,
            "SOFTCAP": self.scaling.softcap is not None,
            "ENTROPY": entropy,
        }
        constexprs = tiles | flags | {"OUTPUT": output, "TMA": self.tma, "GROUP_T": kernels.GROUP_T}
        kernels.head_kernel[(programs,)](
            hidden, weight, self.bias_V, self.target_L[chunk], known, partial, logit, out, tokens, vocabulary, width,
            hidden_LD.stride(0), self.weight_VD.stride(0), 0 if out_LV is None else out_LV.stride(0),
            1.0 / self.scaling.temperature, self.scaling.softcap or 1.0, **constexprs, **self.options,
        )  # fmt: skip

    def used(self, out_LV: Tensor, chunk: slice) -> Tensor:
        return out_LV[: chunk.stop - chunk.start]

    def times_weight(self, out_LV: Tensor, chunk: slice) -> Tensor:
        """[chunk, D] in float32."""
        used = self.used(out_LV, chunk)
        if used.is_cuda and used.dtype != torch.float32:
            return torch.mm(used, self.weight_VD, out_dtype=torch.float32)
        return used.float() @ self.weight_VD.float()

    def add_weight_gradient(self, grad_VD: Tensor, out_LV: Tensor, chunk: slice) -> None:
        used, hidden_LD = self.used(out_LV, chunk), self.hidden_LD[chunk]
        if used.is_cuda and used.dtype != torch.float32:
            torch.addmm(grad_VD, used.T, hidden_LD, out_dtype=torch.float32, out=grad_VD)
        else:
            grad_VD.addmm_(used.T.float(), hidden_LD.float())


def dense_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _tma_reads(matrix: Tensor) -> bool:
    """TMA (Hopper and later) wants addresses and row strides in multiples of 16 bytes."""
    if matrix.is_cuda and torch.cuda.get_device_capability(matrix.device)[0] < 9:
        return False
    stride = matrix.stride(0) * matrix.element_size()
    return matrix.data_ptr() % 16 == 0 and stride % 16 == 0 and stride > 0


def _multiprocessors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 2


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
