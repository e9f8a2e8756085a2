"""Packed attention for a CPU: segments of like sizes side by side, padded, one scaled_dot_product_attention for each.

A dense mask over the whole stream would compute pairs that nobody sees; one call a segment would pay its overhead a
hundred times a layer. Only attention is padded: everything else in the model runs on the flat stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from aslfast.learner.batch import Segments

LONGER = 1.25  # of the shortest in a bucket: the most that its longest may have of keys
MOST_PAIRS = 1 << 20  # of a bucket, padding included (one segment may have more): its mask takes 4 bytes each


@dataclass(frozen=True)
class Bucket:
    """Segments side by side. Padding repeats token 0: as a key nobody sees it, as a query nobody reads it."""

    query_BT: Tensor  # places in the flat stream
    key_BS: Tensor
    mask_B1TS: Tensor | None  # 0 where seen, -inf elsewhere; None: each segment is its own keys, plain causal


class PaddedAttention:
    """See aslfast.learner.attention. dtype: of the queries, for the masks.

    A segment of more than half of its trajectory is computed as the whole of it, and what is not its own is dropped:
    plain causal attention costs half a square, a masked rectangle all of itself.
    """

    def __init__(self, segments: Segments, dtype: torch.dtype) -> None:
        places = torch.arange(len(segments.end_T), device=segments.end_T.device)
        own, keys = places.split(list(segments.query_lengths)), segments.key_K.split(list(segments.key_lengths))
        queries = [k if 2 * len(q) > len(k) else q for q, k in zip(own, keys, strict=True)]
        chosen = bucketed(list(map(len, queries)), segments.key_lengths)
        self.buckets = [bucket_of([queries[i] for i in held], [keys[i] for i in held], dtype) for held in chosen]
        self.place_T = torch.empty_like(places)  # of each token's output in those of the buckets, laid end to end
        start = 0
        for held, bucket in zip(chosen, self.buckets, strict=True):
            for row, i in enumerate(held):
                end = start + row * bucket.query_BT.shape[1] + len(queries[i])
                self.place_T[own[i]] = torch.arange(end - len(own[i]), end, device=places.device)
            start += bucket.query_BT.numel()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        outs = [_attend(bucket, query, key, value, scale) for bucket in self.buckets]
        return embedding(self.place_T, torch.cat(outs)).view_as(query)


def bucketed(query_lengths: Sequence[int], key_lengths: Sequence[int]) -> list[list[int]]:
    """Segments of like numbers of keys, in buckets of at most MOST_PAIRS; those that need no mask among themselves."""
    buckets: list[list[int]] = []
    masked = [q < k for q, k in zip(query_lengths, key_lengths, strict=True)]
    widest = 0
    for i in sorted(range(len(key_lengths)), key=lambda i: (masked[i], key_lengths[i], query_lengths[i])):
        widest = max(widest, query_lengths[i])
        first = buckets[-1][0] if buckets else i
        close = masked[i] == masked[first] and key_lengths[i] <= LONGER * key_lengths[first]
        if buckets and close and (len(buckets[-1]) + 1) * widest * key_lengths[i] <= MOST_PAIRS:
            buckets[-1].append(i)
        else:
            buckets.append([i])
            widest = query_lengths[i]
    return buckets


def bucket_of(queries: Sequence[Tensor], keys: Sequence[Tensor], dtype: torch.dtype) -> Bucket:
    query_BT, key_BS = pad_sequence(list(queries), batch_first=True), pad_sequence(list(keys), batch_first=True)
    shared_B = torch.tensor([len(k) - len(q) for q, k in zip(queries, keys, strict=True)], device=key_BS.device)
    if not shared_B.any():
        return Bucket(query_BT, key_BS, None)
    sees_to_BT = shared_B[:, None] + torch.arange(query_BT.shape[1], device=key_BS.device)
    hidden_BTS = torch.arange(key_BS.shape[1], device=key_BS.device) > sees_to_BT[:, :, None]
    mask_BTS = torch.zeros(hidden_BTS.shape, dtype=dtype, device=key_BS.device).masked_fill_(hidden_BTS, -torch.inf)
    return Bucket(query_BT, key_BS, mask_BTS[:, None])


def _attend(bucket: Bucket, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """[B * T, H * d] of one bucket. Places are looked up as embeddings: the backward of that is quicker than an
    index's, and adds up in the same order every time."""
    q, k, v = (
        embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:]).transpose(1, 2)
        for index, x in ((bucket.query_BT, query), (bucket.key_BS, key), (bucket.key_BS, value))
    )
    mask, grouped = bucket.mask_B1TS, q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)
