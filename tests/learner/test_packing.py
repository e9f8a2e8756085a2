"""Packs keep to their budget and are balanced; the streams of one prompt stay together."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.learner import batch, packing
from aslfast.learner.batch import micro_batches
from tests.support.token_streams import trajectory


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 120))
def test_packs_are_balanced(lengths, max_tokens):
    """LPT's bound (Graham 1969): the fullest pack is at most 4/3 of the best possible, and no pack could be spared by
    the same rule."""
    streams = [trajectory(n + 1, seed) for seed, n in enumerate(lengths)]
    streams = [batch.input_stream(t) for t in streams]
    sizes = [len(s) for s in streams]
    packs = packing.pack_streams(streams, [1] * len(streams), max_tokens, share=False)
    assert sorted(i for pack in packs for i in pack) == list(range(len(streams)))
    loads, limit = [sum(sizes[i] for i in pack) for pack in packs], max([max_tokens, *sizes])
    assert max(loads) <= limit
    assert max(loads) - min(loads) <= max(sizes)
    if len(packs) > -(-sum(sizes) // limit):
        assert max(packing._balance(sizes, len(packs) - 1)[1]) > limit


def test_groups_stay_together_where_they_fit():
    prompts = [[random.Random(g).randrange(256) for _ in range(50)] for g in range(6)]
    samples = [trajectory(70, 10 * g + i, start=prompts[g], prompt=50) for g in range(6) for i in range(4)]
    random.Random(0).shuffle(samples)
    packs = list(micro_batches(samples, [1.0] * 24, 2 * (50 + 4 * 19), "always"))
    assert [len(p.advantage_S) for p in packs] == [8, 8, 8]
    assert all(len(p.input_T) == 2 * (50 + 4 * 19) for p in packs)
    unshared = list(micro_batches(samples, [1.0] * 24, 10_000, "never"))
    assert len(unshared) == 1 and len(unshared[0].input_T) == 24 * 69


def test_sharing_is_chosen_by_what_it_saves():
    alike = [trajectory(60, i, start=range(50), prompt=50) for i in range(4)]
    assert next(micro_batches(alike, [1.0] * 4, 10_000, "auto")).segments.shared
    strangers = [trajectory(60, i) for i in range(4)]
    barely = [trajectory(1200, i, start=range(20)) for i in range(2)]
    for made in (strangers, barely):
        assert not next(micro_batches(made, [1.0] * len(made), 10_000, "auto")).segments.shared
    assert next(micro_batches(barely, [1.0] * 2, 10_000, "always")).segments.shared
