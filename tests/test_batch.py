"""Masks and shifts against a naive loop; packed and padded layouts and any micro-batches are the same computation."""

import copy
import random

import pytest
import torch
from streams import LENGTHS, ragged, trajectory

from aslfast import adapter, batch
from aslfast.advantage import advantages
from aslfast.batch import make_batch, micro_batches
from aslfast.config import AdvantageConfig
from aslfast.core import Group, Reward, StopReason, Task, Trajectory
from aslfast.learner import Learner, LearnerConfig
from aslfast.loss import LossConfig

EPS = torch.finfo(torch.float32).eps


def test_shift_and_masks_against_a_loop():
    trajectories, advantage = ragged()
    made, wanted = make_batch(trajectories, advantage), []
    for sequence, t in enumerate(trajectories):
        for i in range(1, len(t.token_ids)):
            wanted.append((t.token_ids[i - 1], t.token_ids[i], i - 1, sequence, bool(t.loss_mask[i]), t.logprobs[i]))
    columns = [torch.tensor(column) for column in zip(*wanted, strict=True)]
    got = (made.input_T, made.target_T, made.position_T, made.sequence_T, made.live_T, made.sampler_logp_T)
    for ours, naive in zip(got, columns, strict=True):
        assert torch.equal(ours, naive)
    assert made.lengths == tuple(n - 1 for n in LENGTHS)
    assert made.advantage_S.tolist() == advantage
    assert made.live_tokens == sum(sum(t.loss_mask[1:]) for t in trajectories)


def test_layouts_hold_every_token_once():
    made = make_batch(*ragged())
    for layout in (batch.padded(made), batch.packed(made)):
        assert torch.equal(layout.input_BT[layout.row_T, layout.column_T], made.input_T)
        assert torch.equal(layout.position_BT[layout.row_T, layout.column_T], made.position_T)
        places = set(zip(layout.row_T.tolist(), layout.column_T.tolist(), strict=True))
        assert len(places) == len(made.input_T)


def test_packed_mask_sees_its_own_past_alone():
    trajectories, advantage = ragged()
    made = make_batch(trajectories[:4], advantage[:4])
    mask = batch.packed(made).mask
    owner = [(s, i) for s, n in enumerate(made.lengths) for i in range(n)]
    naive = [[query[0] == key[0] and query[1] >= key[1] for key in owner] for query in owner]
    assert torch.equal(mask[0, 0], torch.tensor(naive))


@pytest.mark.parametrize("max_tokens", [1, 40, 81, 150, 10_000])
def test_budget_is_kept_and_none_dropped(max_tokens):
    trajectories, advantage = ragged()
    parts = list(micro_batches(trajectories, advantage, max_tokens))
    assert sorted(n for part in parts for n in part.lengths) == sorted(n - 1 for n in LENGTHS)
    for part in parts:
        assert len(part.lengths) == 1 or len(part.lengths) * max(part.lengths) <= max_tokens
    by_target = {t.token_ids[1:]: a for t, a in zip(trajectories, advantage, strict=True)}
    for part in parts:
        for row, targets in enumerate(part.target_T.split(list(part.lengths))):
            assert float(part.advantage_S[row]) == by_target[tuple(targets.tolist())]
    assert len(list(micro_batches(trajectories, advantage, 10_000))) == 1
    assert list(micro_batches([], [], 100)) == []


LOSS = LossConfig(kl_coef=0.1, aggregate="token_mean")


def gradients(model, trajectories, advantage, layout="padded", micro_batch_tokens=10_000, loss=LOSS):
    """(loss, flat gradient) of the policy's adapter, in the model's dtype."""
    config = LearnerConfig(layout=layout, micro_batch_tokens=micro_batch_tokens)
    learner = Learner(model, config, loss, 0.7, ("policy",))
    model.set_adapter("policy")
    sums = learner._accumulate(trajectories, advantage)
    parameters = adapter.parameters_of(model, "policy")
    flat = torch.cat([p.grad.double().flatten() for p in parameters])
    for p in parameters:
        p.grad = None
    return sums.loss, flat


def logprobs(model, made, layout):
    learner = Learner(model, LearnerConfig(layout=layout), LOSS, 0.7, ("policy",))
    model.set_adapter("policy")
    with torch.no_grad():
        return learner.logprobs(made).double()


def off(one, other):
    return float((one - other).abs().max())


def test_layouts_give_the_same_logprobs(model):
    """Each layout's error against float64 is at most twice the padded one's own, plus 16 roundings at their size."""
    made, model64 = make_batch(*ragged()), copy.deepcopy(model).double()
    exact = logprobs(model64, made, "padded")
    assert off(exact, logprobs(model64, made, "packed")) < 1e-10
    own = off(logprobs(model, made, "padded"), exact)
    assert off(logprobs(model, made, "packed"), exact) <= 2 * own + 16 * EPS * float(exact.abs().max())


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("other", [("packed", 10_000), ("padded", 1), ("packed", 60), ("padded", 81)])
def test_layouts_and_micro_batches_give_the_same_gradients(model, other, aggregate):
    """In float64 the same up to rounding; in float32 as near to it as the whole padded batch is, twice over."""
    trajectories, advantage = ragged()
    loss = LossConfig(kl_coef=0.1, aggregate=aggregate)
    model64 = copy.deepcopy(model).double()
    exact_loss, exact = gradients(model64, trajectories, advantage, loss=loss)
    cut_loss, cut = gradients(model64, trajectories, advantage, *other, loss=loss)
    assert exact.abs().max() > 1e-3
    # the loss itself is float32 arithmetic on the sampler's float32 log-probs
    assert off(cut, exact) <= 64 * EPS * float(exact.abs().max())
    assert cut_loss == pytest.approx(exact_loss, abs=64 * EPS * max(1.0, abs(exact_loss)))
    own = off(gradients(model, trajectories, advantage, loss=loss)[1], exact)
    theirs = off(gradients(model, trajectories, advantage, *other, loss=loss)[1], exact)
    assert theirs <= 2 * own + 64 * EPS * float(exact.abs().max())


def test_order_of_trajectories_does_not_matter(model):
    trajectories, advantage = ragged()
    order = random.Random(0).sample(range(len(advantage)), len(advantage))
    _, one = gradients(model, trajectories, advantage)
    _, other = gradients(model, [trajectories[i] for i in order], [advantage[i] for i in order])
    assert off(one, other) <= 64 * EPS * float(one.abs().max())


def test_trajectories_of_no_signal_are_left_out():
    silent = Trajectory(Task("s", "policy", "p"), (1, 2), (0, 0), (0.0, 0.0), (), StopReason.CONTEXT_FULL)
    spoken = [trajectory(5, seed) for seed in range(4)]
    rewards = [Reward({"judge": value}) for value in (1.0, 0.0, 0.0)]
    groups = [
        Group((spoken[0], spoken[1], silent), tuple(rewards)),
        Group((spoken[2], spoken[3]), (rewards[0], rewards[0])),
    ]
    kept, advantage = advantages(groups, AdvantageConfig())
    assert kept == [spoken[0], spoken[1]]
    assert advantage == pytest.approx([2**0.5, -(0.5**0.5)], rel=1e-5)  # (r - 1/3) / sqrt(2/9), the silent one counted


def test_a_batch_that_does_not_add_up_is_refused():
    made = make_batch(*ragged())
    with pytest.raises(ValueError, match="batch"):
        batch.Batch(**{**vars(made), "lengths": made.lengths[:-1]})
    with pytest.raises(ValueError, match="batch"):
        batch.Batch(**{**vars(made), "advantage_S": made.advantage_S[:-1]})
