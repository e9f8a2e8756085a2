"""Groups -> the trajectories to learn from, each with its signal: advantage, by token where tokens differ, and success.

The arithmetic is in aslfast/learner/advantages: keys, baselines, groups, spans, covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aslfast.config.learning import AdvantageConfig, LossConfig
from aslfast.core import Group, Trajectory
from aslfast.learner.advantages.baselines import History, Rewards, estimate
from aslfast.learner.advantages.covariance import without_high_covariance
from aslfast.learner.advantages.groups import factors, keep_groups
from aslfast.learner.advantages.keys import keys_of
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.advantages.spans import token_advantages, token_kl_weights
from aslfast.learner.batch import loss_positions


@dataclass(frozen=True)
class Lesson:
    """What a step learns: trajectories and their signals, in the order of the groups.

    history: what baselines over steps read of earlier ones, with this step's rewards in it.
    """

    trajectories: list[Trajectory]
    signals: list[Signal]
    history: History


@dataclass(frozen=True)
class _Row:
    """A trajectory with its advantage, those of its spans, its reward and those of its group."""

    trajectory: Trajectory
    advantage: float
    by_span: tuple[float, ...]
    reward: float
    group_rewards: tuple[float, ...]


def lesson(
    groups: Sequence[Group], config: AdvantageConfig, loss: LossConfig, history: History | None = None
) -> Lesson:
    """Return what to learn from: every trajectory with a loss token, unless its group teaches nothing.

    With `drop_zero_variance`, groups whose rewards are all equal are left out (DAPO, arXiv 2503.14476); they still
    count in the baseline and the scale. Under another key than the prompt, trajectories whose advantage is exactly 0
    are (as in SPIRAL's code). One with a rewarded span stays. Kind "sft" takes successes, whatever their group; "nft"
    takes groups with a success and a failure.
    """
    groups = keep_groups(groups, config.keep_groups)
    if not groups:
        return Lesson([], [], history or {})
    rows, after = _rows(groups, config, history or {})
    taught = [row for row in rows if _teaches(row, config, loss)]
    return Lesson([row.trajectory for row in taught], _signals(taught, loss), after)


def _rows(groups: Sequence[Group], config: AdvantageConfig, history: History) -> tuple[list[_Row], History]:
    keys, totals = keys_of(groups, config.group_by), [tuple(reward.total for reward in g.rewards) for g in groups]
    rewards = [reward for group in totals for reward in group]
    places = [place for place, group in enumerate(totals) for _ in group]
    advantages, history = estimate(Rewards(rewards, keys, places), config, history)
    by_span, history = _span_advantages(groups, keys, config, history)
    scales = factors(groups, advantages, config.rescale)
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rows = [
        _Row(trajectory, scale * advantage, tuple(scale * value for value in spans), reward, totals[place])
        for trajectory, advantage, spans, scale, reward, place in zip(
            trajectories, advantages, by_span, scales, rewards, places, strict=True
        )
    ]
    return rows, history


def _span_advantages(
    groups: Sequence[Group], keys: Sequence[str], config: AdvantageConfig, history: History
) -> tuple[list[list[float]], History]:
    """Return the advantage of each span of each trajectory, 0 without a reward; and the history.

    A span's reward is compared with those of the spans of its name in the trajectories of the same key.
    """
    trajectories = [(place, t) for place, group in enumerate(groups) for t in group.trajectories]
    found = [[0.0] * len(t.spans) for _, t in trajectories]
    rewarded = [
        (i, k, span, place)
        for i, (place, t) in enumerate(trajectories)
        for k, span in enumerate(t.spans)
        if span.reward is not None
    ]
    if not rewarded:
        return found, history
    rewards = Rewards(
        [span.reward or 0.0 for _, _, span, _ in rewarded],
        [f"{keys[i]}/{span.name}" for i, _, span, _ in rewarded],
        [place for *_, place in rewarded],
    )
    advantages, history = estimate(rewards, config, history)
    for (i, k, *_), advantage in zip(rewarded, advantages, strict=True):
        found[i][k] = advantage
    return found, history


def _teaches(row: _Row, config: AdvantageConfig, loss: LossConfig) -> bool:
    trajectory = row.trajectory
    if not (len(loss_positions(trajectory)) if trajectory.spans else trajectory.n_sampled):
        return False
    if loss.kind == "sft":
        return _succeeds(row, loss)
    if loss.kind == "nft":
        return 0 < _rate(row, loss) < 1
    if not config.drop_zero_variance or any(row.by_span):
        return True
    return len(set(row.group_rewards)) > 1 if config.group_by == "prompt" else row.advantage != 0


def _succeeds(row: _Row, loss: LossConfig) -> bool:
    return (row.reward if loss.success == "reward" else row.advantage) > loss.success_above


def _rate(row: _Row, loss: LossConfig) -> float:
    """Return the share of the rewards of the group that are those of a success."""
    return sum(reward > loss.success_above for reward in row.group_rewards) / len(row.group_rewards)


def _signals(rows: Sequence[_Row], loss: LossConfig) -> list[Signal]:
    signals = [_signal(row, loss) for row in rows]
    if not (loss.cov_fraction and rows):
        return signals
    trajectories = [row.trajectory for row in rows]
    by_token = [token_advantages(row.trajectory, row.advantage, row.by_span) for row in rows]
    chosen = without_high_covariance(trajectories, by_token, loss)
    return [replace(signal, advantage_L=values) for signal, values in zip(signals, chosen, strict=True)]


def _signal(row: _Row, loss: LossConfig) -> Signal:
    trajectory = row.trajectory
    return Signal(
        row.advantage,
        token_advantages(trajectory, row.advantage, row.by_span) if any(row.by_span) else None,
        token_kl_weights(trajectory),
        _succeeds(row, loss),
        _rate(row, loss),
    )
