"""Which trajectories go through the model together: bins of a token budget, balanced, none dropped and none cut."""

from __future__ import annotations

from collections.abc import Sequence

from aslfast.learner.prefix_tree import Ints, prefix_tree

LEAST_SHARE = 0.08  # of the tokens; below, sharing saves less than the longer lists of keys cost (docs/learner.md)


def pays(streams: Sequence[Ints]) -> bool:
    """Whether sharing prefixes among these streams saves enough."""
    return sum(prefix_tree(streams).shared) >= LEAST_SHARE * sum(map(len, streams))


def packs(streams: Sequence[Ints], prompts: Sequence[int], max_tokens: int, share: bool) -> list[list[int]]:
    """Indices of streams, in packs of at most `max_tokens` distinct tokens (or what the longest stream has, if more).

    prompts: tokens of each stream before the first that was sampled; streams of one prompt stay together where they
    fit. Each cluster of them goes to the emptiest pack, the largest first (LPT, Graham 1969: at most 4/3 of the best
    largest pack), in as few packs as that allows.
    """
    clusters, sizes = _clusters(streams, prompts, max_tokens, share)
    limit = max([max_tokens, *sizes])
    n_packs = -(-sum(sizes) // limit)
    while clusters:
        chosen, loads = _spread(sizes, n_packs)
        if max(loads) <= limit:
            return [[i for c in pack for i in clusters[c]] for pack in chosen if pack]
        n_packs += 1
    return []


def _spread(sizes: Sequence[int], n_packs: int) -> tuple[list[list[int]], list[int]]:
    """The largest first, each to the emptiest of `n_packs`; what each then holds and weighs."""
    chosen, loads = [[] for _ in range(n_packs)], [0] * n_packs
    for c in sorted(range(len(sizes)), key=lambda c: (-sizes[c], c)):
        emptiest = loads.index(min(loads))
        chosen[emptiest].append(c)
        loads[emptiest] += sizes[c]
    return chosen, loads


def _clusters(
    streams: Sequence[Ints], prompts: Sequence[int], max_tokens: int, share: bool
) -> tuple[list[list[int]], list[int]]:
    """Streams that start with the same prompt, cut where they outgrow a pack; and each cluster's distinct tokens."""
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
