"""Acts written by hand: trajectories of sampled turns and observations, two tokens each."""

from aslfast.core import StopReason, Task, Trajectory, Turn


def said(text):
    return "sampled", text, ()


def seen(text, *passages):
    return "tool", text, passages


def search(query, thought="so", **more):
    arguments = ", ".join(f'"{key}": "{value}"' for key, value in {"query": query, **more}.items())
    call = f'<tool_call>{{"name": "search", "arguments": {{{arguments}}}}}</tool_call>'
    return said(f"<think>{thought}</think>{call}")


def act(*turns, role="policy", output=None, answer=None, references=(), question="", hops=0, stop=None, task="t"):
    """An act of a role: the prompt, then these turns. It is finished where it has an output."""
    spoken = [("prompt", "ask", ()), *turns]
    placed = tuple(
        Turn(kind, 2 * i, 2 * i + 2, text, passages=ids) for i, (kind, text, ids) in enumerate(spoken)
    )  # fmt: skip
    mask = [int(kind == "sampled") for kind, *_ in spoken for _ in range(2)]
    n = len(mask)
    ended = stop or (StopReason.NO_OUTPUT if output is None else StopReason.FINISHED)
    about = Task(task, role, "ask", question, references, hops)
    return Trajectory(about, tuple(range(n)), tuple(mask), (-0.5,) * n, placed, ended, output, answer)
