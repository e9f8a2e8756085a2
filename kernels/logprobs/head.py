"""Launches over the loss tokens of `linear_logprob`, chunk by chunk; `fused` states the design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..cards import card_of
from . import head_kernels as kernels
from .inputs import LinearInputs
from .vocabulary import Statistics

WORKSPACE_BYTES = 1 << 29  # 1765 rows of a 152,064-token vocabulary in bfloat16
STATISTICS_BYTES = 1 << 26  # 3530 rows of that vocabulary
WIDENED_BYTES = 1 << 26  # of a head in half precision that is multiplied in float32: 4681 rows of 3584
ROW_NUMBERS = 16  # Triton knows of a stride either that this divides it, or nothing


@dataclass(frozen=True)
class HeadLaunch:
    """One launch of `head_kernel`, which explains the names; None: what its `output` has no use for."""

    output: str
    entropy: bool
    known_4L: Tensor | None = None
    partial: Tensor | None = None
    target_2L: Tensor | None = None
    out_LV: Tensor | None = None


class Head:
    """The loss tokens and the head in one dtype, and the launches over a chunk of these tokens."""

    def __init__(self, inputs: LinearInputs) -> None:
        hidden_TD, weight_VD, target_T = inputs.hidden_TD, inputs.weight_VD, inputs.target_T
        dtype = inputs.autocast or torch.promote_types(hidden_TD.dtype, weight_VD.dtype)
        self.kept_L = None if inputs.mask_T is None else inputs.mask_T.nonzero().squeeze(1)
        if self.kept_L is not None:
            hidden_TD, target_T = hidden_TD[self.kept_L], target_T[self.kept_L]
        # A head narrower than the product is widened tile by tile: copied as a whole it would take twice its memory.
        weight_VD = weight_VD if weight_VD.dtype.itemsize < dtype.itemsize else weight_VD.to(dtype)
        self.hidden_LD, self.weight_VD = tiled_rows(hidden_TD.to(dtype)), tiled_rows(weight_VD)
        self.bias_V = None if inputs.bias_V is None else inputs.bias_V.contiguous()
        local_L = target_T - inputs.shard.start
        self.target_L = torch.where((local_L >= 0) & (local_L < weight_VD.shape[0]), local_L, -1)
        self.scaling, self.largest_V = inputs.scaling, inputs.shard.largest
        self.card = card_of(weight_VD.device)
        self.tile = self.card.tile(dtype.itemsize)

    def workspace(self) -> Tensor:
        """Return room for one chunk's coefficients; rows begin at multiples of 128 bytes, for TMA and cuBLAS."""
        itemsize, vocabulary = self.hidden_LD.element_size(), self.weight_VD.shape[0]
        stride, widest = (_ceil_div(size * itemsize, 128) * 128 for size in (vocabulary, self.largest_V))
        rows = self._even_rows(min(WORKSPACE_BYTES // widest, self._statistics_rows()))
        return self.hidden_LD.new_empty(rows, stride // itemsize)[:, :vocabulary]

    def chunks(self, out_LV: Tensor | None) -> list[slice]:
        """Return the slices of loss tokens that fit into the workspace, or where there is none, the statistics."""
        tokens = len(self.target_L)
        size = self._even_rows(self._statistics_rows()) if out_LV is None else len(out_LV)
        return [slice(start, min(start + size, tokens)) for start in range(0, tokens, max(1, size))]

    def _statistics_rows(self) -> int:
        return STATISTICS_BYTES // (12 * self._slices(self.largest_V))

    def _slices(self, vocabulary: int) -> int:
        return _ceil_div(vocabulary, self.tile.columns // kernels.SLICES)

    def _even_rows(self, most: int) -> int:
        """Return the rows of a chunk: chunks of about one size, of whole tiles where `most` has room for one."""
        tokens, block, most = len(self.target_L), self.tile.rows, max(1, most)
        most = most - most % block or most
        rows = _ceil_div(tokens, max(1, _ceil_div(tokens, most)))
        return min(_ceil_div(rows, block) * block, tokens, most)

    def rows(self, chunk: slice) -> slice | Tensor:
        """Return the positions of the chunk's loss tokens among all tokens."""
        return chunk if self.kept_L is None else self.kept_L[chunk]

    def statistics(
        self, chunk: slice, out_LV: Tensor | None, entropy: bool
    ) -> tuple[tuple[Tensor, Tensor], Statistics]:
        """Return what `coefficients` needs (statistics of each slice, the target's dz/dx) and the whole's statistics.

        `out_LV` gets e dz/dx.
        """
        tokens, floats = chunk.stop - chunk.start, {"dtype": torch.float32, "device": self.target_L.device}
        slices = self._slices(self.weight_VD.shape[0])
        partial = torch.empty(3 if entropy else 2, slices, tokens, **floats)
        target_2L = torch.zeros(2, tokens, **floats)
        output = "statistics" if out_LV is None else "residual"
        self._launch(chunk, HeadLaunch(output, entropy, partial=partial, target_2L=target_2L, out_LV=out_LV))
        whole = torch.empty(3, tokens, **floats)
        constexprs: dict[str, Any] = kernels.REDUCE | {"ENTROPY": entropy}
        kernels.reduce_kernel[(_ceil_div(tokens, kernels.REDUCE["ROWS"]),)](
            partial, whole, tokens, slices, **constexprs, **self.card.options(kernels.REDUCE_WARPS)
        )
        weighted = whole[2] if entropy else None
        return (partial, target_2L[1]), Statistics(whole[0], whole[1], weighted, target_2L[0])

    def coefficients(self, chunk: slice, out_LV: Tensor, parts: tuple[Tensor, Tensor], statistics: Statistics) -> None:
        """Turn e dz/dx into ([v = target] - p) dz/dx, scaled, in place."""
        tokens, (partial, slope) = chunk.stop - chunk.start, parts
        grid = (_ceil_div(tokens, kernels.COEFFICIENT_ROWS), partial.shape[1])
        constexprs: dict[str, Any] = {"SOFTCAP": self.scaling.softcap is not None, "ROWS": kernels.COEFFICIENT_ROWS}
        constexprs |= {"WIDTH": self.tile.columns // kernels.SLICES}
        kernels.coefficient_kernel[grid](
            out_LV, partial, statistics.lse(), statistics.logp(), slope, self.target_L[chunk], tokens, out_LV.shape[1],
            out_LV.stride(0), **constexprs, **self.card.options(kernels.COEFFICIENT_WARPS),
        )  # fmt: skip

    def gradient(self, chunk: slice, out_LV: Tensor, known_4L: Tensor, entropy: bool) -> None:
        """Write the gradient of the raw logits, without the temperature, to `out_LV`."""
        self._launch(chunk, HeadLaunch("gradient", entropy, known_4L=known_4L, out_LV=out_LV))

    def _launch(self, chunk: slice, launch: HeadLaunch) -> None:
        hidden_LD, tile, out_LV = self.hidden_LD[chunk], self.tile, launch.out_LV
        tokens, vocabulary, softcap = len(hidden_LD), len(self.weight_VD), self.scaling.softcap
        tma = self.card.reads_by_tma(hidden_LD.element_size(), launch.output, softcap is not None)
        hidden, weight, out = self._descriptors(hidden_LD, out_LV) if tma else (hidden_LD, self.weight_VD, out_LV)
        programs = min(_ceil_div(tokens, tile.rows) * _ceil_div(vocabulary, tile.columns), _multiprocessors(hidden_LD))
        flags = {"BIAS": self.bias_V is not None, "SOFTCAP": softcap is not None, "ENTROPY": launch.entropy, "TMA": tma}
        constexprs: dict[str, Any] = tile.constexprs() | flags | {"OUTPUT": launch.output, "GROUP_T": kernels.GROUP_T}
        kernels.head_kernel[(programs,)](
            hidden, weight, self.bias_V, self.target_L[chunk], launch.known_4L, launch.partial, launch.target_2L, out,
            tokens, vocabulary, tiled_width(hidden_LD), hidden_LD.stride(0), self.weight_VD.stride(0),
            0 if out_LV is None else out_LV.stride(0), 1.0 / self.scaling.temperature, softcap or 1.0,
            **constexprs, **self.card.options(tile.warps, tile.stages),
        )  # fmt: skip

    def _descriptors(self, hidden_LD: Tensor, out_LV: Tensor | None) -> list[TensorDescriptor | None]:
        """Return TMA descriptors of the tiles of hidden, weight and out; TMA's own bounds cut off out's rows beyond."""
        rows, columns, depth, *_ = self.tile
        sources = hidden_LD, self.weight_VD, None if out_LV is None else out_LV[: len(hidden_LD)]
        blocks = [rows, depth], [columns, depth], [rows, columns // kernels.SLICES]
        return [
            None if source is None else TensorDescriptor.from_tensor(source, block)
            for source, block in zip(sources, blocks, strict=True)
        ]

    def used(self, out_LV: Tensor, chunk: slice) -> Tensor:
        """Return the workspace's rows of the chunk."""
        return out_LV[: chunk.stop - chunk.start]

    def times_weight(self, out_LV: Tensor, chunk: slice) -> Tensor:
        """Return the chunk's coefficients times the head: [chunk, D] in float32."""
        used = self.used(out_LV, chunk)
        if used.is_cuda and used.dtype != torch.float32:
            return torch.mm(used, self.weight_VD, out_dtype=torch.float32)
        product_LD = torch.zeros(len(used), self.weight_VD.shape[1], dtype=torch.float32, device=used.device)
        step = max(1, WIDENED_BYTES // (4 * self.weight_VD.shape[1]))
        for start in range(0, len(self.weight_VD), step):
            part = slice(start, start + step)
            product_LD.addmm_(used[:, part].float(), self.weight_VD[part].float())
        return product_LD

    def add_weight_gradient(self, grad_VD: Tensor, out_LV: Tensor, chunk: slice) -> None:
        """Add the chunk's coefficients, transposed, times its hidden states to `grad_VD`."""
        used, hidden_LD = self.used(out_LV, chunk), self.hidden_LD[chunk]
        if used.is_cuda and used.dtype != torch.float32:
            torch.addmm(grad_VD, used.T, hidden_LD, out_dtype=torch.float32, out=grad_VD)
        else:
            grad_VD.addmm_(used.T.float(), hidden_LD.float())


def dense_rows(matrix: Tensor) -> Tensor:
    """Return the matrix with adjacent columns, copied where it is not so already."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def tiled_rows(matrix: Tensor) -> Tensor:
    """Return the matrix as the head's kernel reads it: dense rows, in 16 bit beginning at multiples of 16 numbers.

    Where they do not, they are copied, with zeros between the matrix's columns and `tiled_width`: without that, tiles
    would be read number by number, through more registers than there are.
    """
    if matrix.element_size() != 2 or _is_tiled(matrix):
        return dense_rows(matrix)
    rows, width = matrix.shape
    padded = matrix.new_zeros(rows, tiled_width(matrix))
    padded[:, :width] = matrix
    return padded[:, :width]


def tiled_width(matrix: Tensor) -> int:
    """Return the columns that the kernel reads: in 16 bit the next multiple of 16."""
    width = matrix.shape[1]
    return _ceil_div(width, ROW_NUMBERS) * ROW_NUMBERS if matrix.element_size() == 2 else width


def _is_tiled(matrix: Tensor) -> bool:
    row, column = matrix.stride()
    whole = matrix.data_ptr() % 16 == row % ROW_NUMBERS == matrix.shape[1] % ROW_NUMBERS == 0
    return whole and column == 1 and row >= matrix.shape[1]


def _multiprocessors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 2


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
