"""Which trajectories go through the model together: balanced packs of a token budget; none is dropped or truncated."""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.learner.prefix_tree import Ints, prefix_tree

MIN_SHARED_FRACTION = 0.08  # of the tokens; below, sharing saves less than the longer key lists cost (docs/learner.md)


def sharing_is_worthwhile(streams: Sequence[Ints]) -> bool:
    """Return whether sharing prefixes among these streams saves enough."""
    return sum(prefix_tree(streams).shared) >= MIN_SHARED_FRACTION * sum(map(len, streams))


def pack_streams(streams: Sequence[Ints], prompts: Sequence[int], max_tokens: int, share: bool) -> list[list[int]]:
    """Return the streams' indices in packs of at most `max_tokens` distinct tokens (or the longest stream's, if more).

    prompts: the number of tokens of each stream before its first sampled one; streams of one prompt stay together where
    they fit. Each cluster of them goes to the emptiest pack, the largest first (LPT, Graham 1969: at most 4/3 of the
    best largest pack), in as few packs as that allows.
    """
    clusters, sizes = _clusters(streams, prompts, max_tokens, share)
    limit = max([max_tokens, *sizes])
    n_packs = -(-sum(sizes) // limit)
    while clusters:
        packs, loads = _balance(sizes, n_packs)
        if max(loads) <= limit:
            return [[i for c in pack for i in clusters[c]] for pack in packs if pack]
        n_packs += 1
    return []


def _balance(sizes: Sequence[int], n_packs: int) -> tuple[list[list[int]], list[int]]:
    """Assign the items, largest first, each to the emptiest of `n_packs`; return the packs and their loads."""
    packs, loads = [[] for _ in range(n_packs)], [0] * n_packs
    for c in sorted(range(len(sizes)), key=lambda c: (-sizes[c], c)):
        emptiest = loads.index(min(loads))
        packs[emptiest].append(c)
        loads[emptiest] += sizes[c]
    return packs, loads


def _clusters(
    streams: Sequence[Ints], prompts: Sequence[int], max_tokens: int, share: bool
) -> tuple[list[list[int]], list[int]]:
    """Return clusters of streams that start with the same prompt, split at `max_tokens`; and their distinct tokens."""
    tree = prefix_tree(streams, share)
    clusters: list[list[int]] = []
    sizes: list[int] = []
    for i, shared, fresh in zip(tree.order, tree.shared, tree.fresh, strict=True):
        if prompts[i] <= shared and sizes[-1] + fresh <= max_tokens:
            clusters[-1].append(i)
            sizes[-1] += fresh
        else:
            clusters.append([i])
            sizes.append(len(streams[i]))
    return clusters, sizes
