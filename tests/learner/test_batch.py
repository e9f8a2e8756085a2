"""Masks, shifts, shared prefixes and packs against naive loops over the trajectories."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslfast.config.schema import AdvantageConfig
from aslfast.core import Group, Reward
from aslfast.learner import batch, packing
from aslfast.learner.advantage import advantages
from aslfast.learner.batch import make_batch, micro_batches
from aslfast.learner.prefix_tree import LEAST_SHARED
from tests.support.token_streams import grouped, ragged, silent, trajectory


def live_of(made):
    """Sorted by trajectory: (trajectory, position of the source, its token, target, sampler's log-prob)."""
    columns = made.sequence_L, made.position_T[made.source_L], made.input_T[made.source_L], made.target_L
    return sorted(zip(*(c.tolist() for c in columns), made.sampler_logp_L.tolist(), strict=True))


def live_by_loop(trajectories):
    return [
        (s, i - 1, t.token_ids[i - 1], t.token_ids[i], pytest.approx(t.logprobs[i]))
        for s, t in enumerate(trajectories)
        for i in range(1, len(t.token_ids))
        if t.loss_mask[i]
    ]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_every_live_token_once_with_its_own_past(made_by, share):
    trajectories, advantage = made_by()
    made = make_batch(trajectories, advantage, share)
    assert live_of(made) == live_by_loop(trajectories)
    assert made.advantage_S.tolist() == pytest.approx(advantage)
    for s, source in zip(made.sequence_L.tolist(), made.source_L.tolist(), strict=True):
        seen = [k for k in range(source + 1) if source < made.segments.end_T[k]]
        assert made.input_T[seen].tolist() == list(trajectories[s].token_ids[: len(seen)])
        assert made.position_T[seen].tolist() == list(range(len(seen)))


@pytest.mark.parametrize("share", [True, False])
def test_segments_say_the_same_as_ends(share):
    """Each token is a query once; its keys by segment are its keys by token."""
    segments = make_batch(*grouped(), share).segments
    n, start, at = len(segments.end_T), 0, 0
    for queries, keys in zip(segments.query_lengths, segments.key_lengths, strict=True):
        path = segments.key_K[at : at + keys].tolist()
        for i in range(queries):
            own = start + i
            assert path[: keys - queries + i + 1] == [k for k in range(own + 1) if own < segments.end_T[k]]
        start, at = start + queries, at + keys
    assert (start, at) == (n, len(segments.key_K))
    assert segments.shared == share
    assert segments.pairs == sum(
        int((torch.arange(q + 1) <= q).logical_and(q < segments.end_T[: q + 1]).sum()) for q in range(n)
    )


def test_what_is_shared_is_there_once():
    """As many tokens as there are different prefixes, when none is too short to be worth it."""
    trajectories, advantage = grouped()
    streams = [tuple(batch.input_stream(t).tolist()) for t in trajectories]
    made = make_batch(trajectories, advantage)
    assert made.unshared_tokens == sum(map(len, streams)) == len(make_batch(trajectories, advantage, False).input_T)
    assert len(made.input_T) == len({s[:i] for s in streams for i in range(1, len(s) + 1)})
    close = [trajectory(40, i, start=range(LEAST_SHARED - 1)) for i in range(3)]
    assert len(make_batch(close, [1.0] * 3).input_T) == 3 * 39  # too little in common


def test_dead_ends_are_not_computed():
    """What stands behind the last live token predicts nothing; neither does a trajectory that sampled nothing."""
    spoken = trajectory(10, 0)
    ends_in_tool_text = trajectory(10, 1)
    object.__setattr__(ends_in_tool_text, "loss_mask", (0, 1, 1, 0, 0, 0, 0, 0, 0, 0))
    made = make_batch([spoken, ends_in_tool_text, silent(9, 2)], [1.0, 2.0, 3.0])
    assert len(made.input_T) == 9 + 2 and made.sequence_L.max() == 1


@pytest.mark.parametrize("share", ["never", "always", "auto"])
@pytest.mark.parametrize("max_tokens", [1, 40, 81, 150, 10_000])
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_budget_is_kept_and_none_dropped(made_by, max_tokens, share):
    trajectories, advantage = made_by()
    parts = list(micro_batches(trajectories, advantage, max_tokens, share))
    found = [(round(float(p.advantage_S[s]), 6), *rest) for p in parts for s, *rest in live_of(p)]
    wanted = [
        (round(a, 6), *rest[1:]) for t, a in zip(trajectories, advantage, strict=True) for rest in live_by_loop([t])
    ]
    assert len(found) == len(wanted)
    assert sorted(found, key=lambda x: x[:4]) == sorted(wanted, key=lambda x: x[:4])
    longest = max(len(batch.input_stream(t)) for t in trajectories)
    assert max(len(part.input_T) for part in parts) <= max(max_tokens, longest)
    if max_tokens == 10_000:
        assert len(parts) == 1


def test_nothing_in_nothing_out():
    assert list(micro_batches([], [], 100, "auto")) == []
    assert list(micro_batches([silent(5, 0)], [1.0], 100, "always")) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 120))
def test_packs_are_balanced(lengths, max_tokens):
    """LPT's bound (Graham 1969): the fullest pack is at most 4/3 of the best possible, and no pack could be spared by
    the same rule."""
    streams = [trajectory(n + 1, seed) for seed, n in enumerate(lengths)]
    streams = [batch.input_stream(t) for t in streams]
    sizes = [len(s) for s in streams]
    packs = packing.packs(streams, [1] * len(streams), max_tokens, share=False)
    assert sorted(i for pack in packs for i in pack) == list(range(len(streams)))
    loads, limit = [sum(sizes[i] for i in pack) for pack in packs], max([max_tokens, *sizes])
    assert max(loads) <= limit
    assert max(loads) - min(loads) <= max(sizes)
    if len(packs) > -(-sum(sizes) // limit):
        assert max(packing._spread(sizes, len(packs) - 1)[1]) > limit


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


def test_a_batch_that_does_not_add_up_is_refused():
    made = make_batch(*ragged())
    for name in ("source_L", "sampler_logp_L", "position_T"):
        with pytest.raises(ValueError, match="do not add up"):
            batch.Batch(**{**vars(made), name: getattr(made, name)[:-1]})
    with pytest.raises(ValueError, match="8 trajectories"):
        make_batch(ragged()[0], [1.0])


def rewarded(*values):
    spoken = [trajectory(5, seed) for seed in range(len(values))]
    return Group(tuple(spoken), tuple(Reward({"judge": value}) for value in values))


def test_trajectories_of_no_signal_are_left_out():
    mute = silent(2, 0)
    group = rewarded(1.0, 0.0)
    groups = [Group((*group.trajectories, mute), (*group.rewards, Reward({"judge": 0.0}))), rewarded(1.0, 1.0)]
    kept, advantage = advantages(groups, AdvantageConfig())
    assert kept == list(group.trajectories)
    assert advantage == pytest.approx([2**0.5, -(0.5**0.5)], rel=1e-5)  # (r - 1/3) / sqrt(2/9), the silent one counted
    kept, advantage = advantages(groups, AdvantageConfig(drop_zero_variance=False))
    assert kept == [*group.trajectories, *groups[1].trajectories] and advantage[2:] == [0.0, 0.0]


def test_a_middling_reward_in_a_group_that_differs_is_kept():
    """Its advantage is 0, but it counts in the mean over tokens: only flat groups are dropped."""
    kept, advantage = advantages([rewarded(0.0, 0.5, 1.0)], AdvantageConfig())
    assert len(kept) == 3 and advantage[1] == 0.0


def test_whitened_advantages():
    """Minus the group's mean, then mean 0 and std 1 over the batch: not the std of the rewards."""
    groups = [rewarded(1.0, 0.0, 0.0, 1.0), rewarded(5.0, 5.0), rewarded(0.0, 3.0)]
    _, advantage = advantages(groups, AdvantageConfig(scale="whitened", drop_zero_variance=False))
    centred = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.0, 0.0, -1.5, 1.5], dtype=torch.float64)
    assert advantage == pytest.approx((centred / centred.std(correction=0)).tolist(), rel=1e-5)
    _, plain = advantages(groups, AdvantageConfig("none", "whitened", drop_zero_variance=False))
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 0.0, 3.0], dtype=torch.float64)
    assert plain == pytest.approx(((rewards - rewards.mean()) / rewards.std(correction=0)).tolist(), rel=1e-5)
