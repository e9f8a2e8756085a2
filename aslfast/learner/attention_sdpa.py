"""Packed attention on scaled_dot_product_attention: segments of similar lengths are padded into buckets, one call each.

A dense mask over the whole stream would compute mostly invisible pairs; one call per segment would pay the overhead of
a call a hundred times a layer. Only attention is padded: everything else in the model runs on the flat stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from aslfast.learner.batch import Segments

MAX_LENGTH_RATIO = 1.25  # of the longest to the shortest segment of a bucket, in keys
MAX_PAIRS = 1 << 20  # of a bucket, padding included (one segment may have more): its mask takes 4 bytes a pair


@dataclass(frozen=True)
class Bucket:
    """Segments padded to a rectangle. Padding repeats token 0: masked as a key, its output dropped as a query."""

    query_BT: Tensor  # indices into the flat stream
    key_BS: Tensor
    mask_B1TS: Tensor | None  # 0 where visible, -inf elsewhere; None: plain causal, every segment is its own keys


class PaddedAttention:
    """The backend "sdpa" (see aslfast.learner.attention). dtype: of the queries, used for the masks.

    A segment of more than half of its trajectory is computed over the whole trajectory, and the outputs of the shared
    prefix are dropped: plain causal attention costs half a square, a masked rectangle the whole rectangle.
    """

    def __init__(self, segments: Segments, dtype: torch.dtype) -> None:
        indices = torch.arange(len(segments.end_T), device=segments.end_T.device)
        own, keys = indices.split(list(segments.query_lengths)), segments.key_K.split(list(segments.key_lengths))
        queries = [k if 2 * len(q) > len(k) else q for q, k in zip(own, keys, strict=True)]
        chosen = make_buckets(list(map(len, queries)), segments.key_lengths)
        self.buckets = [pad_bucket([queries[i] for i in some], [keys[i] for i in some], dtype) for some in chosen]
        self.output_T = torch.empty_like(indices)  # of each token: where its output is in the concatenated buckets
        start = 0
        for members, bucket in zip(chosen, self.buckets, strict=True):
            for row, i in enumerate(members):
                end = start + row * bucket.query_BT.shape[1] + len(queries[i])
                self.output_T[own[i]] = torch.arange(end - len(own[i]), end, device=indices.device)
            start += bucket.query_BT.numel()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        outs = [_attend(bucket, query, key, value, scale) for bucket in self.buckets]
        return embedding(self.output_T, torch.cat(outs)).view_as(query)


def make_buckets(query_lengths: Sequence[int], key_lengths: Sequence[int]) -> list[list[int]]:
    """Return the segments' numbers in buckets of similar key lengths and at most MAX_PAIRS pairs.

    Segments that need a mask and those that need none are never in one bucket.
    """
    buckets: list[list[int]] = []
    masked = [q < k for q, k in zip(query_lengths, key_lengths, strict=True)]
    widest = 0
    for i in sorted(range(len(key_lengths)), key=lambda i: (masked[i], key_lengths[i], query_lengths[i])):
        widest = max(widest, query_lengths[i])
        first = buckets[-1][0] if buckets else i
        similar = masked[i] == masked[first] and key_lengths[i] <= MAX_LENGTH_RATIO * key_lengths[first]
        if buckets and similar and (len(buckets[-1]) + 1) * widest * key_lengths[i] <= MAX_PAIRS:
            buckets[-1].append(i)
        else:
            buckets.append([i])
            widest = query_lengths[i]
    return buckets


def pad_bucket(queries: Sequence[Tensor], keys: Sequence[Tensor], dtype: torch.dtype) -> Bucket:
    """Pad the indices of several segments' queries and keys into one bucket."""
    query_BT, key_BS = pad_sequence(list(queries), batch_first=True), pad_sequence(list(keys), batch_first=True)
    shared_B = torch.tensor([len(k) - len(q) for q, k in zip(queries, keys, strict=True)], device=key_BS.device)
    if not shared_B.any():
        return Bucket(query_BT, key_BS, None)
    last_key_BT = shared_B[:, None] + torch.arange(query_BT.shape[1], device=key_BS.device)
    hidden_BTS = torch.arange(key_BS.shape[1], device=key_BS.device) > last_key_BT[:, :, None]
    mask_BTS = torch.zeros(hidden_BTS.shape, dtype=dtype, device=key_BS.device).masked_fill_(hidden_BTS, -torch.inf)
    return Bucket(query_BT, key_BS, mask_BTS[:, None])


def _attend(bucket: Bucket, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Return one bucket's outputs [B * T, H * d].

    Rows are gathered with `embedding`: its backward is faster than that of indexing, and sums in the same order every
    time.
    """
    q, k, v = (
        embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:]).transpose(1, 2)
        for index, x in ((bucket.query_BT, query), (bucket.key_BS, key), (bucket.key_BS, value))
    )
    mask, grouped = bucket.mask_B1TS, q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)
