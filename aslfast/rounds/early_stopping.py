"""When a phase has stopped to gain."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_GAIN = 0.005


def plateaued(step_rewards: Sequence[float], window: int, least_gain: float = LEAST_GAIN) -> bool:
    """Whether the last `window` steps' mean rewards have stopped to rise, over the long window and over the short.

    Long: the mean of the newest half is less than `least_gain` (relative) above that of the older half. Short: the
    same within the newest half. False before `window` steps. ASL (arXiv 2510.14253, its code): window 200 for the
    judge, 400 for the policy, least gain 0.5%. We differ: its ratio has no meaning where the older mean is 0 or less.
    """
    if window < 4 or len(step_rewards) < window:
        return False
    recent = list(step_rewards[-window:])
    return _flat(recent, least_gain) and _flat(recent[window // 2 :], least_gain)


def _flat(rewards: Sequence[float], least_gain: float) -> bool:
    half = len(rewards) // 2
    older, newer = sum(rewards[:half]) / half, sum(rewards[half:]) / (len(rewards) - half)
    return newer <= older or newer - older < least_gain * abs(older)
