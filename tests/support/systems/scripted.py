"""One scripted step of a phase of a system: the policy says what a script says, about one labelled question."""

import asyncio
import dataclasses

from aslfast.core import Question
from aslfast.phase import Play
from tests.support.scripted_world import WORLD, play
from tests.support.systems.played import Played

PLACE = next(name for name, facts in WORLD.facts.items() if "river" in facts)
ELSEWHERE = next(name for name, facts in WORLD.facts.items() if "job" in facts)
RIVER = WORLD.facts[PLACE]["river"]
QUESTION = Question("q", f"what is the river of {PLACE}?", (RIVER,), 1)


def call(query, **more):
    arguments = ", ".join(f'"{key}": "{value}"' for key, value in {"query": query, **more}.items())
    return f'<tool_call>{{"name": "search", "arguments": {{{arguments}}}}}</tool_call>'


def play_scripted(make_context, path, script, *settings, plays=4):
    """The step's rows and line, and the context after it. script: (prompt, seed) -> the turns."""
    name = path.partition(":")[2]
    steps = [f"own_phase.{name}.{key}" for key in ("steps=1", "tasks_per_step=1", f"group_size={plays}")]
    context = make_context(script=script, overrides=[f'phases=["{path}"]', *steps, *settings])
    context.data = dataclasses.replace(context.data, labelled=[QUESTION])
    (line,) = play(context)
    return Played(context.checkpointer.run.path, [line]).rows, line, context


def play_once(kind, context, task, number=0):
    """The acts of one play of a task by a phase of this class, and the play."""
    phase = kind(context.config, context.config.own_phase[kind.__name__].options)
    play = Play(context.start_step().for_group(), task, number)
    return asyncio.run(phase.play(play, task)), play
