"""The key/value cache of the local sampler: one slot per session, written at each slot's own positions."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

from aslfast.models.context_limit import check_plain_softmax
from aslfast.sampler.local.shared_reads import SharedReads, current_reads

INITIAL_SLOTS = 8
INITIAL_POSITIONS = 256
ATTENTION = "aslfast_grouped"


class KVCache(Cache):
    """Keys and values of all layers in one tensor kv_L2RHSD: [layers, 2, slots, kv heads, positions, head dim].

    A forward pass covers consecutive slots, so that attention reads a view and nothing is gathered. Heads come before
    positions: what a head reads is one contiguous stretch. One `index_copy_` writes a batch. One slot more than asked
    for is kept: padding is written there, and never read.
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, like: torch.Tensor) -> None:
        super().__init__(layers=[])
        self._shape = (n_layers, n_kv_heads, head_dim)
        self._like = like  # any tensor: gives the dtype and the device
        self.drop()

    def drop(self) -> None:
        """Free everything."""
        self.shared: SharedReads | None = None  # of the sequences that ran last
        self._allocate(0, INITIAL_POSITIONS)

    def _allocate(self, n_slots: int, n_positions: int) -> None:
        n_layers, n_heads, head_dim = self._shape
        self.kv_L2RHSD = self._like.new_zeros(n_layers, 2, n_slots + 1, n_heads, n_positions, head_dim)
        self.n_slots, self.n_positions = n_slots, n_positions
        # The same memory head by head of each token, where index_copy_ writes. Lists: indexing costs microseconds.
        self._flat = [[side.view(-1, head_dim) for side in layer] for layer in self.kv_L2RHSD]

    def reserve(self, n_slots: int, n_positions: int, max_slots: int, max_positions: int) -> None:
        """Grow to at least this size, by doubling up to the limits; what is held is kept."""
        if n_slots <= self.n_slots and n_positions <= self.n_positions:
            return
        old_slots, old_positions, old = self.n_slots, self.n_positions, self.kv_L2RHSD
        if n_slots > old_slots:
            n_slots = min(max(n_slots, 2 * old_slots, INITIAL_SLOTS), max_slots)
        if n_positions > old_positions:
            n_positions = min(max(n_positions, 2 * old_positions), max_positions)
        self._allocate(max(n_slots, old_slots), max(n_positions, old_positions))
        self.kv_L2RHSD[:, :, :old_slots, :, :old_positions] = old[:, :, :old_slots]

    @torch.inference_mode()  # also called between steps, by an abort
    def swap(self, slot: int, other: int, n_positions: int) -> None:
        """Exchange the first n_positions of two slots."""
        if slot != other and n_positions:
            kept = self.kv_L2RHSD[:, :, slot, :, :n_positions].clone()
            self.kv_L2RHSD[:, :, slot, :, :n_positions] = self.kv_L2RHSD[:, :, other, :, :n_positions]
            self.kv_L2RHSD[:, :, other, :, :n_positions] = kept

    @torch.inference_mode()
    def copy(self, source: int, target: int, first: int, end: int) -> None:
        """Copy positions [first, end) of a slot to another."""
        if source != target:
            self.kv_L2RHSD[:, :, target, :, first:end] = self.kv_L2RHSD[:, :, source, :, first:end]

    def set_write_positions(
        self, first_slot: int, position_BT: torch.Tensor, n_positions: int, padded_BT: torch.Tensor | None
    ) -> None:
        """Set what the next forward pass writes (position_BT of the slots from first_slot) and reads (n_positions)."""
        n_batch, n_heads = position_BT.shape[0], self._shape[1]
        row_H = torch.arange(first_slot * n_heads, (first_slot + n_batch) * n_heads, device=position_BT.device)
        index_BHT = row_H.view(n_batch, n_heads, 1) * self.n_positions + position_BT[:, None]
        if padded_BT is not None:
            index_BHT = index_BHT.masked_fill(padded_BT[:, None], self.n_slots * n_heads * self.n_positions)
        self._index = index_BHT.flatten()
        window = self.kv_L2RHSD[:, :, first_slot : first_slot + n_batch, :, :n_positions]
        self._window = [(layer[0], layer[1]) for layer in window.unbind(0)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [B, H, T, D]; return views of all positions in use [B, H, S, D].

        In a step with shared reads: of the tails, [B*H, S, D].
        """
        key, value = self._flat[layer_idx]
        key_states, value_states = key_states.to(key.dtype), value_states.to(key.dtype)
        key.index_copy_(0, self._index, key_states.flatten(0, 2))
        value.index_copy_(0, self._index, value_states.flatten(0, 2))
        if reads := current_reads():
            return reads.update(key_states, value_states, layer_idx)
        return self._window[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: models that are given positions do not use it, but some ask."""
        return 0


# transformers calls it: its parameters
def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Compute attention with the query heads of one kv head along the query's length: no key or value is repeated.

    query [B, G*H, T, D], key and value [B, H, S, D], attention_mask [B, 1, G*T, S] (additive, tiled by `causal_mask`).
    Head h*G+g reads kv head h, as in transformers' repeat_kv. Return [B, T, G*H, D], in the query's dtype; the products
    are in that of keys and values.
    Raise UserError for a model whose attention is more than a softmax of scaled products.
    """
    check_plain_softmax(softcap, s_aux, "the local sampler")
    n_batch, n_heads, n_tokens, head_dim = query.shape
    wide = query.to(key.dtype)
    if reads := current_reads():
        return reads.attention(wide, key, value, attention_mask, scaling or head_dim**-0.5).to(query.dtype), None
    grouped = wide.reshape(n_batch, key.shape[1], -1, head_dim)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling).to(query.dtype)
    return out.reshape(n_batch, n_heads, n_tokens, head_dim).transpose(1, 2), None


def causal_mask(position_BT: torch.Tensor, n_positions: int, n_groups: int, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a token may look, -inf elsewhere, tiled for `grouped_attention`: [B, 1, G*T, S]."""
    position_S = torch.arange(n_positions, device=position_BT.device)
    hidden_BTS = position_S > position_BT[:, :, None]
    mask_BTS = torch.zeros_like(hidden_BTS, dtype=dtype).masked_fill_(hidden_BTS, -torch.inf)
    return mask_BTS.repeat(1, n_groups, 1)[:, None]


AttentionInterface.register(ATTENTION, grouped_attention)
