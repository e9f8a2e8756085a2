"""`linear_logprob` and `logprob` by Triton kernels; the functions and signatures of `reference_logprob`.

Forward alone is one product of the live hidden states with the head, whose logits are used up tile by tile in
registers. What its gradient costs:

- Frozen head. hidden's gradient needs sum_v p_v W_v, and p needs lse, which is known when the product is done. Keeping
  that sum online, as attention does, needs a [tile, D] accumulator: 128 x 3584 floats are 1.8 MB, and a multiprocessor
  has 256 KiB of registers. So the first product leaves e = exp(z - max of the slice) of one row chunk in a workspace in
  the head's dtype, a pass over it makes [v = target] - p of it (no logit was ever stored, so none was rounded), and the
  second product is plain: torch.mm, which on Hopper is cuBLAS at full rate. Two products in all.
  Traffic per logit: 2 bytes written, 2 + 2 by the pass, 2 read. At N=8192, V=152064 in bfloat16 that is 10 GB, of which
  the pass's 5 GB (1.5 ms at 3.35 TB/s) stand beside two products of 11.2 ms (D=3584, 800 TFLOP/s); the rest runs
  under them. The head is read once per chunk and product (1.1 GB, 0.33 ms, under 2.4 ms of arithmetic).
- Otherwise the backward makes the logits again, the gradient's coefficients straight from the known lse, and one more
  product for hidden and one for the head.

Memory: WORKSPACE_BYTES, 8 bytes (entropy: 12) per 64 logits of a chunk for statistics, and what is returned.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import logprob_head_kernels as kernels
from . import logprob_logits_kernels as rowwise
from .vocabulary import Scaling, Shard, Statistics

WORKSPACE_BYTES = 1 << 29  # 1765 rows of a 152,064-token vocabulary in bfloat16
STATISTICS_ROWS = 4096  # rows of a chunk where no workspace limits them: 74 MiB of statistics at that vocabulary


def linear_forward(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    scaling: Scaling,
    entropy: bool,
    save: bool,
    shard: Shard,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp [T], entropy [T] or [0], lse [T], residual [T, D] or [0]); 0 for masked tokens."""
    head = _Head(hidden_TD, weight_VD, bias_V, target_T, mask_T, scaling, shard)
    logp_T = hidden_TD.new_zeros(hidden_TD.shape[0], dtype=torch.float32)
    lse_T = torch.zeros_like(logp_T)
    entropy_T = torch.zeros_like(logp_T) if entropy else logp_T.new_empty(0)
    residual_TD = hidden_TD.new_zeros(hidden_TD.shape if save else 0)
    out_LV = head.workspace() if save else None
    for chunk in head.chunks(out_LV):
        partial, statistics = head.statistics(chunk, out_LV, entropy)
        statistics = statistics.over(shard)
        rows = head.rows(chunk)
        logp_T[rows], lse_T[rows] = statistics.logp(), statistics.lse()
        if entropy:
            entropy_T[rows] = statistics.entropy()
        if out_LV is not None:
            head.coefficients(chunk, out_LV, partial, statistics)
            product = head.times_weight(out_LV, chunk) / (kernels.COEFFICIENT_SCALE * scaling.temperature)
            residual_TD[rows] = shard.all_sum(product).to(residual_TD.dtype)
    return logp_T, entropy_T, lse_T, residual_TD


def linear_backward(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    scaling: Scaling,
    shard: Shard,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias, each [0] where not `needed`."""
    head = _Head(hidden_TD, weight_VD, bias_V, target_T, mask_T, scaling, shard)
    floats = {"dtype": torch.float32, "device": hidden_TD.device}
    grad_TD = hidden_TD.new_zeros(hidden_TD.shape if needed[0] else 0)
    grad_VD = torch.zeros(weight_VD.shape if needed[1] else 0, **floats)
    grad_V = torch.zeros(weight_VD.shape[0] if needed[2] else 0, **floats)
    # The upstream gradients are brought to at most 1, which the workspace's dtype can hold; `unit` undoes it.
    zero_T = torch.zeros_like(grad_logp_T)
    upstream = torch.stack([grad_logp_T, zero_T if grad_entropy_T is None else grad_entropy_T])
    unit = upstream.abs().amax() if upstream.numel() else upstream.new_ones(())
    unit = unit.clamp(min=torch.finfo(torch.float32).tiny)
    known_4T = torch.cat([torch.stack([lse_T, zero_T if grad_entropy_T is None else entropy_T]), upstream / unit])
    known_4T[2:] *= kernels.COEFFICIENT_SCALE
    unit = unit / (kernels.COEFFICIENT_SCALE * scaling.temperature)
    out_LV = head.workspace()
    for chunk in head.chunks(out_LV):
        rows = head.rows(chunk)
        head.gradient(chunk, out_LV, known_4T[:, rows].contiguous(), grad_entropy_T is not None)
        if needed[0]:
            grad_TD[rows] = (shard.all_sum(head.times_weight(out_LV, chunk)) * unit).to(grad_TD.dtype)
        if needed[1]:
            head.add_weight_gradient(grad_VD, out_LV, chunk)
        if needed[2]:
            grad_V += head.used(out_LV, chunk).sum(0, dtype=torch.float32)
    grad_V = (grad_V * unit).to(grad_V.dtype if bias_V is None else bias_V.dtype)
    return grad_TD, grad_VD.mul_(unit).to(weight_VD.dtype), grad_V


class _Head:
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
        self.hidden_LD, self.weight_VD = _dense_rows(hidden_TD.to(dtype)), _dense_rows(weight_VD.to(dtype))
        self.bias_V = None if bias_V is None else bias_V.contiguous()
        local_L = target_T - shard.start
        self.target_L = torch.where((local_L >= 0) & (local_L < weight_VD.shape[0]), local_L, -1)
        self.scaling = scaling
        tiles = dict(kernels.TILES[dtype.itemsize])
        self.options = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
        self.tiles = tiles
        self.tma = dtype.itemsize == 2 and _tma_reads(self.hidden_LD) and _tma_reads(self.weight_VD)

    def workspace(self) -> Tensor:
        """Room for one chunk's coefficients; rows begin at multiples of 128 bytes, for TMA and cuBLAS."""
        itemsize, vocabulary = self.weight_VD.element_size(), self.weight_VD.shape[0]
        stride = triton.cdiv(vocabulary * itemsize, 128) * 128 // itemsize
        most = max(1, WORKSPACE_BYTES // (stride * itemsize))
        chunks = triton.cdiv(len(self.target_L), most)
        rows = triton.cdiv(len(self.target_L), max(1, chunks))
        block = self.tiles["BLOCK_T"]  # full tiles, where the budget has room for one
        rows = min(triton.cdiv(rows, block) * block, len(self.target_L), most - most % block or most)
        return self.weight_VD.new_empty(rows, stride)[:, :vocabulary]

    def chunks(self, out_LV: Tensor | None) -> list[slice]:
        live, size = len(self.target_L), STATISTICS_ROWS if out_LV is None else max(1, len(out_LV))
        return [slice(start, min(start + size, live)) for start in range(0, live, size)]

    def rows(self, chunk: slice) -> slice | Tensor:
        """Where the chunk's live tokens stand among all."""
        return chunk if self.live_L is None else self.live_L[chunk]

    def statistics(self, chunk: slice, out_LV: Tensor | None, entropy: bool) -> tuple[Tensor, Statistics]:
        """(partial statistics of each slice of the vocabulary, those of the whole); `out_LV` gets e dz/dx."""
        tokens, width = chunk.stop - chunk.start, self.tiles["BLOCK_V"] // kernels.SLICES
        slices = triton.cdiv(self.weight_VD.shape[0], width)
        partial = torch.empty(3 if entropy else 2, slices, tokens, dtype=torch.float32, device=self.target_L.device)
        logit = torch.zeros(tokens, dtype=torch.float32, device=self.target_L.device)
        output = "statistics" if out_LV is None else "residual"
        self._launch(chunk, output, entropy, partial=partial, logit=logit, out_LV=out_LV)
        whole = torch.empty(3, tokens, dtype=torch.float32, device=self.target_L.device)
        grid = (triton.cdiv(tokens, kernels.REDUCE_ROWS),)
        kernels.reduce_kernel[grid](
            partial, whole, tokens, slices, ENTROPY=entropy, BLOCK=kernels.REDUCE_ROWS, num_warps=1
        )
        return partial, Statistics(whole[0], whole[1], whole[2] if entropy else None, logit)

    def coefficients(self, chunk: slice, out_LV: Tensor, partial: Tensor, statistics: Statistics) -> None:
        """In place: e dz/dx -> ([v = target] - p) dz/dx, scaled."""
        tokens, width = chunk.stop - chunk.start, self.tiles["BLOCK_V"] // kernels.SLICES
        grid = (triton.cdiv(tokens, kernels.COEFFICIENT_ROWS), partial.shape[1])
        kernels.coefficient_kernel[grid](
            out_LV, partial, statistics.lse(), statistics.logp(), self.target_L[chunk], tokens, out_LV.shape[1],
            out_LV.stride(0), self.scaling.temperature, self.scaling.softcap or 1.0,
            SOFTCAP=self.scaling.softcap is not None, ROWS=kernels.COEFFICIENT_ROWS, WIDTH=width, num_warps=4,
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
        count = triton.cdiv(tokens, tiles["BLOCK_T"]) * triton.cdiv(vocabulary, tiles["BLOCK_V"])
        programs = min(count, _multiprocessors(self.weight_VD))
        kernels.head_kernel[(programs,)](
            hidden, weight, self.bias_V, self.target_L[chunk], known, partial, logit, out, tokens, vocabulary, width,
            hidden_LD.stride(0), self.weight_VD.stride(0), 0 if out_LV is None else out_LV.stride(0),
            1.0 / self.scaling.temperature, self.scaling.softcap or 1.0,
            OUTPUT=output, BIAS=self.bias_V is not None, SOFTCAP=self.scaling.softcap is not None, ENTROPY=entropy,
            TMA=self.tma, PROGRAMS=programs, GROUP_T=kernels.GROUP_T, **tiles, **self.options,
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


def logits_forward(
    logits_TV: Tensor, target_T: Tensor, mask_T: Tensor | None, scaling: Scaling, entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(logp [T], entropy [T] or [0], lse [T]); 0 for masked tokens."""
    logits_TV, target_T = _dense_rows(logits_TV), _marked(target_T, mask_T)
    (tokens, vocabulary), softcap = logits_TV.shape, scaling.softcap
    # A skipped row's values: top 0, mass 1 and logit 0 give logp 0, entropy 0 and lse 0.
    rows_4T = torch.tensor([[0.0], [1.0], [0.0], [0.0]], device=logits_TV.device).repeat(1, tokens)
    if tokens:
        rowwise.statistics_kernel[(tokens,)](
            logits_TV, target_T, rows_4T, tokens, vocabulary, logits_TV.stride(0), 1.0 / scaling.temperature,
            softcap or 1.0, SOFTCAP=softcap is not None, ENTROPY=entropy, BLOCK=rowwise.BLOCK, **rowwise.OPTIONS,
        )  # fmt: skip
    statistics = Statistics(rows_4T[0], rows_4T[1], rows_4T[3] if entropy else None, rows_4T[2])
    return statistics.logp(), statistics.entropy(), statistics.lse()


def logits_backward(
    logits_TV: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logp_T: Tensor,
    grad_entropy_T: Tensor | None,
    scaling: Scaling,
    out_TV: Tensor,
) -> None:
    """Writes the gradient of the logits to `out_TV`, which may be `logits_TV` itself."""
    with_entropy, softcap, vocabulary = grad_entropy_T is not None, scaling.softcap, logits_TV.shape[1]
    source_TV = _dense_rows(logits_TV)
    dense_TV = out_TV if out_TV.stride(1) == 1 else torch.empty_like(source_TV)
    tail = [entropy_T, grad_logp_T, grad_entropy_T] if with_entropy else [lse_T, grad_logp_T, grad_logp_T]
    known_4T = torch.stack([lse_T, *tail])
    if logits_TV.numel():
        rowwise.gradient_kernel[(len(target_T) * triton.cdiv(vocabulary, rowwise.BLOCK),)](
            source_TV, _marked(target_T, mask_T), known_4T, dense_TV, len(target_T), vocabulary, source_TV.stride(0),
            dense_TV.stride(0), 1.0 / scaling.temperature, softcap or 1.0, SOFTCAP=softcap is not None,
            ENTROPY=with_entropy, BLOCK=rowwise.BLOCK, **rowwise.OPTIONS,
        )  # fmt: skip
    if dense_TV is not out_TV:
        out_TV.copy_(dense_TV)


def _marked(target_T: Tensor, mask_T: Tensor | None) -> Tensor:
    """-1 for the rows to skip."""
    return target_T.contiguous() if mask_T is None else torch.where(mask_T, target_T, -1)


def _dense_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _tma_reads(matrix: Tensor) -> bool:
    """TMA (Hopper and later) wants addresses and row strides in multiples of 16 bytes."""
    if matrix.is_cuda and torch.cuda.get_device_capability(matrix.device)[0] < 9:
        return False
    stride = matrix.stride(0) * matrix.element_size()
    return matrix.data_ptr() % 16 == 0 and stride % 16 == 0 and stride > 0


def _multiprocessors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 2
