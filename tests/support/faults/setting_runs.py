"""Runs that set a key of their own after every step."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from aslfast.config import RunConfig
from aslfast.rounds.context import RoundContext
from tests.support.killed_runs import go


def go_setting(config: RunConfig, run: Path, die_before: int = 0) -> None:
    """As `go`; the rate of each step follows from the reward of the one before."""
    made = RoundContext.__post_init__

    def begun(context: RoundContext) -> None:
        made(context)

        def told(phase):
            def after_step(state, groups):
                phase.after_step(state, groups)
                context.set("learner.learning_rate", 1e-3 / (1 + sum(map(len, state.pool))))
                context.set("policy.group_size", 2 + state.step % 2)

            return replace(phase, after_step=after_step)

        context.phases = [told(phase) for phase in context.phases]

    with patch.object(RoundContext, "__post_init__", begun):
        go(config, run, die_before)
