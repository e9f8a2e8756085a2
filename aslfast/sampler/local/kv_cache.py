"""The key/value cache of the local sampler: one row per session, written at each row's own positions."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

FIRST_ROWS = 8
FIRST_COLUMNS = 256
ATTENTION = "aslfast_grouped"


class KVCache(Cache):
    """Keys and values of all layers in one tensor kv_L2RSHD: [layers, 2, rows, columns, kv heads, head dim].

    A forward pass covers the consecutive rows `rows`, so that attention reads a view and nothing is gathered.
    Columns come before heads: a token's keys are one contiguous stretch, and one `index_copy_` writes a batch.
    One row more than asked for is kept: padding is written there, where nobody reads.
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, like: torch.Tensor) -> None:
        super().__init__(layers=[])
        self._shape = (n_layers, n_kv_heads, head_dim)
        self._like = like  # any weight: gives the dtype and the device
        self.drop()

    def drop(self) -> None:
        """Free everything."""
        self._allocate(0, FIRST_COLUMNS)

    def _allocate(self, n_rows: int, n_columns: int) -> None:
        n_layers, n_heads, head_dim = self._shape
        self.kv_L2RSHD = self._like.new_zeros(n_layers, 2, n_rows + 1, n_columns, n_heads, head_dim)
        self.n_rows, self.n_columns = n_rows, n_columns
        # The same memory token by token, where index_copy_ writes. Lists: indexing a tensor costs microseconds.
        self._flat = [[side.view(-1, n_heads, head_dim) for side in layer] for layer in self.kv_L2RSHD]

    def reserve(self, n_rows: int, n_columns: int, max_running_requests: int, max_columns: int) -> None:
        """Grow to at least this size, by doubling up to the limits; what is held is kept."""
        if n_rows <= self.n_rows and n_columns <= self.n_columns:
            return
        old_rows, old_columns, old = self.n_rows, self.n_columns, self.kv_L2RSHD
        if n_rows > old_rows:
            n_rows = min(max(n_rows, 2 * old_rows, FIRST_ROWS), max_running_requests)
        if n_columns > old_columns:
            n_columns = min(max(n_columns, 2 * old_columns), max_columns)
        self._allocate(max(n_rows, old_rows), max(n_columns, old_columns))
        self.kv_L2RSHD[:, :, :old_rows, :old_columns] = old[:, :, :old_rows]

    @torch.inference_mode()  # also called between steps, by an abort
    def swap(self, row: int, other: int, n_columns: int) -> None:
        """Exchange the first n_columns of two rows."""
        if row != other and n_columns:
            kept = self.kv_L2RSHD[:, :, row, :n_columns].clone()
            self.kv_L2RSHD[:, :, row, :n_columns] = self.kv_L2RSHD[:, :, other, :n_columns]
            self.kv_L2RSHD[:, :, other, :n_columns] = kept

    def set_write_positions(
        self, first_row: int, position_BT: torch.Tensor, n_columns: int, padded_BT: torch.Tensor | None
    ) -> None:
        """Say what the next forward pass writes (position_BT of rows first_row...) and reads (n_columns)."""
        n_rows = position_BT.shape[0]
        row_B1 = torch.arange(first_row, first_row + n_rows, device=position_BT.device)[:, None]
        index_BT = row_B1 * self.n_columns + position_BT
        if padded_BT is not None:
            index_BT = index_BT.masked_fill(padded_BT, self.n_rows * self.n_columns)
        self._index = index_BT.flatten()
        window = self.kv_L2RSHD[:, :, first_row : first_row + n_rows, :n_columns].transpose(3, 4)
        self._window = [(layer[0], layer[1]) for layer in window.unbind(0)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [B, H, T, D]; return views of all columns in use [B, H, S, D]."""
        key, value = self._flat[layer_idx]
        key.index_copy_(0, self._index, key_states.transpose(1, 2).flatten(0, 1))
        value.index_copy_(0, self._index, value_states.transpose(1, 2).flatten(0, 1))
        return self._window[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused by models that are given positions; some ask all the same."""
        return 0


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention whose query heads of one kv head stand in the query's length: keys and values are never repeated.

    query [B, G*H, T, D], key and value [B, H, S, D], attention_mask [B, 1, G*T, S] (additive, tiled by `causal_mask`).
    Head h*G+g reads kv head h, as in transformers' repeat_kv. Returns [B, T, G*H, D].
    """
    n_batch, n_heads, n_tokens, head_dim = query.shape
    grouped = query.reshape(n_batch, key.shape[1], -1, head_dim)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(n_batch, n_heads, n_tokens, head_dim).transpose(1, 2), None


def causal_mask(position_BT: torch.Tensor, n_columns: int, n_groups: int, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token may look, -inf elsewhere, tiled for `grouped_attention`: [B, 1, G*T, S]."""
    column_S = torch.arange(n_columns, device=position_BT.device)
    hidden_BTS = column_S > position_BT[:, :, None]
    mask_BTS = torch.zeros_like(hidden_BTS, dtype=dtype).masked_fill_(hidden_BTS, -torch.inf)
    return mask_BTS.repeat(1, n_groups, 1)[:, None]


AttentionInterface.register(ATTENTION, grouped_attention)
