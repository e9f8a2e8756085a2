"""The format reward, the same for every role."""

from __future__ import annotations

from aslfast.core import StopReason, Trajectory


def format_reward(trajectory: Trajectory) -> float:
    """Return (fraction of turns that open with a closed <think> block + 1 if a tool answered) / 4: at most 1/2.

    ASL's (arXiv 2510.14253, its code). We differ: 0 unless finished; the original rewards unfinished trajectories too.
    """
    if trajectory.stop is not StopReason.FINISHED:
        return 0.0
    said = [turn.text.lstrip() for turn in trajectory.turns if turn.kind == "sampled"]
    thinking = sum(text.startswith("<think>") and "</think>" in text for text in said) / len(said)
    return (thinking + (trajectory.tool_calls > 0)) / 4
