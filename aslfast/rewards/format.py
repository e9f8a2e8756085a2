"""The format reward, the same for every role."""

from __future__ import annotations

from aslfast.core import StopReason, Trajectory, Turn


def format_reward(trajectory: Trajectory) -> float:
    """Return (fraction of turns that open with a closed <think> block + 1 if a tool answered) / 4: at most 1/2.

    ASL's (arXiv 2510.14253, its code). We differ: 0 unless finished; the original rewards unfinished trajectories too.
    Where the chat template opens the block in the prompt, the turn closes it, and a second one in it earns nothing.
    """
    if trajectory.stop is not StopReason.FINISHED:
        return 0.0
    sampled = [turn for turn in trajectory.turns if turn.kind == "sampled"]
    return (sum(map(_thinks, sampled)) / len(sampled) + (trajectory.tool_calls > 0)) / 4


def _thinks(turn: Turn) -> bool:
    thought, closed, _ = turn.text.lstrip().partition("</think>")
    return bool(closed) and ("<think>" not in thought if turn.in_thinking else thought.startswith("<think>"))
