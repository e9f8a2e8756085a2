"""The loop over rounds: train, evaluate against the ground truth, commit the round, watch its metrics."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from dataclasses import replace

from aslfast.checkpoint.recovery import METRICS, ROUNDS
from aslfast.checkpoint.run_dir import resume_command
from aslfast.clock import CLOCK
from aslfast.metrics import monitor
from aslfast.metrics.scoring import Scores
from aslfast.rounds import replicas
from aslfast.rounds.context import RoundContext
from aslfast.rounds.records import RoundRecord
from aslfast.rounds.round import run_round
from aslfast.trainer.datasets import Datasets
from aslfast.trainer.evaluation import evaluate
from aslfast.trainer.sft.phase import SftPhase


def play_rounds(context: RoundContext, datasets: Datasets, sft: SftPhase | None = None) -> None:
    """Run all remaining rounds. SIGINT and SIGTERM end it between two commits, as KeyboardInterrupt."""

    async def rounds() -> None:
        task = asyncio.current_task()
        if task and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with CLOCK.part("rest"):
            await _rounds(context, datasets, sft)

    try:
        asyncio.run(rounds())
    except asyncio.CancelledError as error:
        command = resume_command(context.checkpointer.run.path)
        raise KeyboardInterrupt(f"stopped; go on with: {command}") from error


async def _rounds(context: RoundContext, datasets: Datasets, sft: SftPhase | None) -> None:
    """Evaluate the base in round 0; in each later round train, then evaluate. Round 1 starts with `sft`, if any."""
    config, state = context.config, context.state
    while state.round <= config.rounds:
        context.checkpointer.start_clock()
        if state.round == 1 and sft:
            await sft.run()
        if state.round:
            await run_round(context)
        context.observer.evaluating(state.round)
        with CLOCK.part("evaluation"):
            scores = await evaluate(context, datasets)
        record = _commit_round(context, scores)
        context.observer.evaluated(record)
        for text in monitor.alarm_texts(record.as_json()):
            context.observer.warning(text)
        gc.collect()
        if state.round <= config.rounds:
            monitor.stop_for_alarms(record.as_json(), config.monitor, resume_command(context.checkpointer.run.path))


def _commit_round(context: RoundContext, scores: Scores) -> RoundRecord:
    """Commit the round's record, with its health metrics and alarms; advance the state to the next round."""
    state, config, run = context.state, context.config, context.checkpointer.run
    context.checkpointer.update_clock()
    record = RoundRecord(state.round, scores, state.seconds)
    history = run.history
    health, raised = monitor.monitor_round(
        record.as_json(), history.get(METRICS, ()), history.get(ROUNDS, ()), len(state.pool), config.monitor
    )
    record = replicas.broadcast_record(context.learner.ranks, replace(record, health=health, alarms=raised))
    state.round, state.seconds = state.round + 1, 0.0
    context.checkpointer.round(record, last=state.round > config.rounds)
    return record
