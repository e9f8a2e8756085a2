"""Masks, shifts, shared prefixes and packs against naive loops over the trajectories."""

import pytest
import torch

from aslfast.learner import batch
from aslfast.learner.batch import make_batch, micro_batches
from aslfast.learner.prefix_tree import MIN_SHARED_TOKENS
from tests.support.token_streams import grouped, ragged, silent, trajectory


def loss_tokens_of(made):
    """Return (trajectory, position of the source, its token, target, sampler's log-prob), sorted by trajectory."""
    columns = made.sequence_L, made.position_T[made.source_L], made.input_T[made.source_L], made.target_L
    return sorted(zip(*(c.tolist() for c in columns), made.sampler_logp_L.tolist(), strict=True))


def loss_tokens_by_loop(trajectories):
    return [
        (s, i - 1, t.token_ids[i - 1], t.token_ids[i], pytest.approx(t.logprobs[i]))
        for s, t in enumerate(trajectories)
        for i in range(1, len(t.token_ids))
        if t.loss_mask[i]
    ]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("made_by", [ragged, grouped])
def test_every_loss_token_once_with_its_own_past(made_by, share):
    trajectories, advantage = made_by()
    made = make_batch(trajectories, advantage, share)
    assert loss_tokens_of(made) == loss_tokens_by_loop(trajectories)
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
    close = [trajectory(40, i, start=range(MIN_SHARED_TOKENS - 1)) for i in range(3)]
    assert len(make_batch(close, [1.0] * 3).input_T) == 3 * 39  # too little in common


def test_tokens_behind_the_last_loss_token_are_not_computed():
    """They predict nothing; neither does a trajectory that sampled nothing."""
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
    found = [(round(float(p.advantage_S[s]), 6), *rest) for p in parts for s, *rest in loss_tokens_of(p)]
    wanted = [
        (round(a, 6), *rest[1:])
        for t, a in zip(trajectories, advantage, strict=True)
        for rest in loss_tokens_by_loop([t])
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


def test_a_batch_of_other_lengths_is_refused():
    made = make_batch(*ragged())
    for name in ("source_L", "sampler_logp_L", "position_T"):
        with pytest.raises(ValueError, match="do not match"):
            batch.Batch(**{**vars(made), name: getattr(made, name)[:-1]})
    with pytest.raises(ValueError, match="8 trajectories"):
        make_batch(ragged()[0], [1.0])
