"""SGLang's attention on a CPU: the decode step of many requests in few calls."""

from __future__ import annotations

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch.nn.functional import scaled_dot_product_attention

REQUESTS = 16  # in one call: their keys and values stay in the processor's cache


class BatchedAttention(TorchNativeAttnBackend):
    """SGLang's plain torch backend, which calls attention once a request; here requests of like length share a call."""

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """Find, for a decode step, which KV-pool entries each request reads, padded to the longest of its chunk."""
        super().init_forward_metadata(forward_batch)
        self._chunks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        if not forward_batch.forward_mode.is_decode():
            return
        assert self.req_to_token_pool is not None
        length_B, row_B = forward_batch.seq_lens, forward_batch.req_pool_indices
        for part_b in length_B.argsort().split(REQUESTS):
            longest = int(length_B[part_b[-1]])
            seen_bS = torch.arange(longest) < length_B[part_b, None]
            entry_bS = self.req_to_token_pool.req_to_token[row_B[part_b], :longest].masked_fill(~seen_bS, 0)
            self._chunks.append((part_b, entry_bS, seen_bS[:, None, None]))

    # sglang calls it: its parameters
    def _run_sdpa_forward_decode(
        self, query: torch.Tensor, output: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *_: object,
        scaling: float | None = None, sliding_window_size: int | None = None, **__: object,
    ) -> torch.Tensor:  # fmt: skip
        assert sliding_window_size is None, "sliding windows are not served on a CPU"
        n_kv = k_cache.shape[1]
        for part_b, entry_bS, seen_b11S in self._chunks:
            # the query heads of one kv head lie along the positions: no copy of keys and values for each of them
            query_bHGD = query[part_b].unflatten(1, (n_kv, -1))
            key_bHSD, value_bHSD = k_cache[entry_bS].transpose(1, 2), v_cache[entry_bS].transpose(1, 2)
            out_bHGD = scaled_dot_product_attention(query_bHGD, key_bHSD, value_bHSD, seen_b11S, scale=scaling)
            output[part_b] = out_bHGD.flatten(1, 2)
        return output
