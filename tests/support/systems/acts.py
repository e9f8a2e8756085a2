"""Acts written by hand: trajectories of a few tokens, with what a reward reads of them."""

from aslfast.core import StopReason, Task, Trajectory, Turn


def act(role, output=None, answer=None, question="", references=(), read=(), stop=None):
    """An act of a role; without an output it was cut off. read: what its searches found."""
    turns = tuple(Turn("tool", 0, 0, text) for text in read)
    stop = stop or (StopReason.NO_OUTPUT if output is None else StopReason.FINISHED)
    task = Task(f"t-{question}", role, "", question, tuple(references))
    return Trajectory(task, (1, 2), (0, 1), (0.0, -0.5), turns, stop, output, answer)
