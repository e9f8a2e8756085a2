"""SGLang's LoRA on a CPU: one small matrix product an adapter, whatever the order of the requests.

The plain torch backend runs one product for each run of neighbours with the same adapter: in a batch that mixes roles,
one a request. Here the tokens of each adapter are gathered once a batch:

    out[t] += scaling_a (x[t] A_a^T) B_a^T    for the tokens t of adapter a   (LoRA, arXiv 2106.09685, section 4.1)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from sglang.srt.lora.backend.base_backend import BaseLoRABackend
from sglang.srt.lora.utils import LoRABatchInfo, generate_sequence_lengths
from sglang.srt.model_executor.forward_batch_info import ForwardBatch


@dataclass(frozen=True)
class LoraGroup:
    """The tokens of one adapter in a batch. where None: all of them."""

    slot: int
    rank: int
    scaling: float
    where_t: torch.Tensor | None


class GroupedLora(BaseLoRABackend):
    """SGLang's backend interface: weights A [slots, slices * rank, in] and B [slots, out, rank], inputs [T, in]."""

    name = "torch_native"

    def __init__(self, max_loras_per_batch: int, device: torch.device, **_: object) -> None:
        super().__init__(max_loras_per_batch, device)
        self._groups: list[LoraGroup] = []

    def prepare_lora_batch(
        self, forward_batch: ForwardBatch, weight_indices: list[int], lora_ranks: list[int], scalings: list[float],
        *_: object, **__: object,
    ) -> None:  # fmt: skip
        """Find the tokens of each adapter in the batch."""
        slots = torch.tensor(weight_indices)
        lengths = generate_sequence_lengths(forward_batch, device=torch.device("cpu"))
        slot_T = slots.repeat_interleave(lengths)
        used = [slot for slot in sorted(set(weight_indices)) if lora_ranks[slot]]
        alone = len(set(weight_indices)) == 1
        self._groups = [
            LoraGroup(
                slot, lora_ranks[slot], float(scalings[slot]), None if alone else (slot_T == slot).nonzero()[:, 0]
            )
            for slot in used
        ]
        none = torch.empty(0)
        self.batch_info = LoRABatchInfo(
            use_cuda_graph=False, bs=len(weight_indices), num_segments=len(used), seg_indptr=none,
            weight_indices=slots, lora_ranks=torch.tensor(lora_ranks), scalings=torch.tensor(scalings), max_len=None,
            seg_lens=lengths, permutation=None,
        )  # fmt: skip

    def run_lora_a_sgemm(
        self, x: torch.Tensor, weights: torch.Tensor, stack_num: int = 1, *_: object, **__: object
    ) -> torch.Tensor:
        """Return the low-rank inputs of all groups, concatenated, for run_lora_b_sgemm.

        One flat tensor: where several processes hold a layer, SGLang sums it over them.
        """
        lows = [self._low(x, weights, group, stack_num).flatten() for group in self._groups]
        return torch.cat(lows) if lows else x.new_empty(0)

    def run_lora_b_sgemm(
        self, x: torch.Tensor, weights: torch.Tensor, output_offset_cpu: torch.Tensor, base_output: torch.Tensor,
        *_: object, **__: object,
    ) -> torch.Tensor:  # fmt: skip
        """Add the adapters' outputs to base_output, slice by slice."""
        ends, start = output_offset_cpu.tolist(), 0
        for group in self._groups:
            width = (len(ends) - 1) * group.rank
            n = width * len(base_output if group.where_t is None else group.where_t)
            self._add(base_output, x[start : start + n].view(-1, width), weights[group.slot], group, ends)
            start += n
        return base_output

    # sglang calls it: its parameters
    def run_qkv_lora(
        self, x: torch.Tensor, qkv_lora_a: torch.Tensor, qkv_lora_b: torch.Tensor, output_offset_cpu: torch.Tensor,
        base_output: torch.Tensor, n_slices: int = 3, **_: object,
    ) -> torch.Tensor:  # fmt: skip
        low = self.run_lora_a_sgemm(x, qkv_lora_a, n_slices)
        return self.run_lora_b_sgemm(low, qkv_lora_b, output_offset_cpu, base_output)

    def run_gate_up_lora(
        self, x: torch.Tensor, gate_up_lora_a: torch.Tensor, gate_up_lora_b: torch.Tensor,
        output_offset_cpu: torch.Tensor, base_output: torch.Tensor, **_: object,
    ) -> torch.Tensor:  # fmt: skip
        return self.run_qkv_lora(x, gate_up_lora_a, gate_up_lora_b, output_offset_cpu, base_output, 2)

    def _low(self, x: torch.Tensor, weights: torch.Tensor, group: LoraGroup, n_slices: int) -> torch.Tensor:
        rows = x if group.where_t is None else x[group.where_t]
        return (rows @ weights[group.slot, : n_slices * group.rank].T).mul_(group.scaling)

    def _add(self, out: torch.Tensor, low: torch.Tensor, b_OR: torch.Tensor, group: LoraGroup, ends: list[int]) -> None:
        for i, (start, end) in enumerate(pairwise(ends)):
            low_tR = low[:, i * group.rank : (i + 1) * group.rank]
            b_oR = b_OR[start:end, : group.rank]
            if group.where_t is None:
                out[:, start:end].addmm_(low_tR, b_oR.T)
            else:
                out[:, start:end].index_add_(0, group.where_t, low_tR @ b_oR.T)
