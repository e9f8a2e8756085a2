"""A run from a configuration: base, adapters, sampler, learner, environment; then round after round."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslfast.checkpoint.run_dir import LEDGER, RunDir, check_new_run_dir, read_run_config, resume_command
from aslfast.config import RunConfig
from aslfast.distributed.process_group import ProcessGroup, init_process_group
from aslfast.learner.learner import Learner
from aslfast.metrics import alarms
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.models.base_weights import BaseWeights
from aslfast.rounds import commit, replicas
from aslfast.rounds.context import Loop
from aslfast.rounds.round import run_round
from aslfast.trainer.build import (
    build_rollout,
    build_sampler,
    build_search_tool,
    check_context,
    load_base_model,
    prepare_torch,
    start_adapters,
    weight_sync_check,
)
from aslfast.trainer.datasets import Environment, file_environment, lab_environment
from aslfast.trainer.evaluation import measure
from aslfast.trainer.provenance import compare, provenance_of

# ("setup", {what}) ("resumed", {round, phases_done, phase_step}) ("step", a line of metrics.jsonl)
# ("evaluating", {round}) ("trajectory", {tokens}: one more, while evaluating) ("evaluated", a line of rounds.jsonl)
# ("notice", {text}: what a person should know)
Report = Callable[[str, dict[str, Any]], None]


def train(config: RunConfig, out: str | Path, report: Report) -> Path:
    """Runs the whole recipe into the new folder `out`. Raises UserError for bad input before anything is written.

    An error before round 0 is measured leaves nothing behind. A run that is stopped or killed can be resumed.
    """
    folder = Path(out)
    with init_process_group(resume_command(folder)) as ranks:
        if ranks.restarted and ranks.broadcast(b"1" if (folder / LEDGER).exists() else b""):
            _resume(folder, report, ranks)
        else:
            _train(replicas.broadcast_config(ranks, lambda: config), folder, report, ranks)
    return folder


def _train(config: RunConfig, folder: Path, report: Report, ranks: ProcessGroup) -> None:
    if ranks.is_rank_zero:
        check_new_run_dir(folder)
    parts = _open_parts(config, report, ranks)
    existed = folder.exists()
    with RunDir.create(folder, config) if ranks.is_rank_zero else replicas.NullRunDir() as run:
        try:
            _go_on(config, parts, run, report)
        except Exception:
            if not run.measured:
                _clear(folder, existed)
            raise


def resume(run: str | Path, report: Report) -> Path:
    """Goes on with a run from its last commit, to the same numbers as if nothing had happened. Raises UserError.

    The same bits on the same processor, software and number of threads, with the local sampler. Of a finished run
    nothing is left to do.
    """
    folder = Path(run)
    with init_process_group(resume_command(folder)) as ranks:
        _resume(folder, report, ranks)
    return folder


def _resume(folder: Path, report: Report, ranks: ProcessGroup) -> None:
    config = replicas.broadcast_config(ranks, lambda: read_run_config(folder))
    with RunDir.take_up(folder) if ranks.is_rank_zero else replicas.NullRunDir() as taken:
        for notice in taken.notices:
            report("notice", {"text": notice})
        if ranks.broadcast(b"1" if ranks.is_rank_zero and taken.round > config.rounds else b""):
            taken.finish()
            report("notice", {"text": f"{folder}: finished, all {config.rounds} rounds; nothing to go on with"})
        else:
            _go_on(config, _open_parts(config, report, ranks), taken, report)


def _clear(folder: Path, keep: bool) -> None:
    """`folder` was missing or empty before: so it is again."""
    shutil.rmtree(folder, ignore_errors=True)
    if keep:
        folder.mkdir(exist_ok=True)


@dataclass(frozen=True)
class _Parts:
    """What a configuration opens before anything is written. The lab's environment is made in the run's folder."""

    learner: Learner
    tokenizer: Any
    environment: Environment | None
    given: list[str]  # adapters that start from an adapter of another run


def _open_parts(config: RunConfig, report: Report, ranks: ProcessGroup) -> _Parts:
    prepare_torch(config)
    report("setup", {"what": "data"})
    opened = None if config.data.lab else file_environment(config)
    report("setup", {"what": "base model"})
    model, tokenizer = load_base_model(config, ranks)
    check_context(model, config)
    peft_model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed, config.adapters)
    given = start_adapters(peft_model, config)
    if ranks.model_parallel_size > 1:
        BaseWeights(peft_model, model_folder(config.model.path)).shard(ranks)
    learner = Learner(peft_model, config.learner, config.loss, config.sampler.temperature, config.adapters, ranks)
    report("setup", {"what": f"learner, attention by {learner.attention}"})
    ranks.barrier()  # what one of them lacks ends all before anything is written
    return _Parts(learner, tokenizer, opened, given)


def _go_on(config: RunConfig, parts: _Parts, run: RunDir, report: Report) -> None:
    """From the run's last commit, or from the beginning where there is none."""

    def notice(text: str) -> None:
        report("notice", {"text": text})

    with run.writing():
        environment = parts.environment or lab_environment(config, run.path / "lab")
    model, ranks = parts.learner.model, parts.learner.ranks
    sampler = build_sampler(config, model, parts.tokenizer, run.path / "engine.log", notice, ranks)
    with closing(sampler):
        if config.sampler.kind == "sglang" and ranks.is_group_leader:
            report("setup", {"what": "the SGLang engine"})
        sampler.start()
        rollout = build_rollout(config, sampler, parts.tokenizer, build_search_tool(config, environment.index))
        loop = Loop(
            config, rollout, parts.learner, run, environment.topics, sampler.flush, lambda line: report("step", line),
            notice, environment.labelled, weight_sync_check(sampler, model, parts.tokenizer, config, ranks),
            environment.learned_oracle,
        )  # fmt: skip
        if ranks.is_rank_zero:
            _begin(loop, parts, report)
        replicas.sync_initial_state(loop.learner, loop, provenance_of(config)["inputs"])
        loop.flush()
        loop.prove()
        play(loop, environment, report)
    run.finish()


def _begin(loop: Loop, parts: _Parts, report: Report) -> None:
    """Commits the start of a new run, or takes up what was committed of another."""
    run, facts = loop.run, provenance_of(loop.config)
    facts["software"]["ranks"] = str(loop.ranks.size)
    if run.facts:
        for text in compare(run.facts, facts):
            loop.notice(text)
        commit.take_up(loop)
        done = [role for number, role in loop.phases_done if number == loop.round]
        report("resumed", {"round": loop.round, "phases_done": done, "phase_step": loop.phase_step})
        return
    commit.begun(loop, facts, parts.given)


def play(loop: Loop, environment: Environment, report: Report) -> None:
    """All rounds that are left. SIGINT and SIGTERM end it between two commits, as KeyboardInterrupt."""

    async def rounds() -> None:
        task = asyncio.current_task()
        if task and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await _rounds(loop, environment, report)

    try:
        asyncio.run(rounds())
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt(f"stopped; go on with: {resume_command(loop.run.path)}") from error


async def _rounds(loop: Loop, environment: Environment, report: Report) -> None:
    """Round 0 measures the base; each later round learns, then measures."""
    while loop.round <= loop.config.rounds:
        loop.since = time.perf_counter()
        if loop.round:
            await run_round(loop)
        report("evaluating", {"round": loop.round})
        scores = await measure(loop, environment, lambda t: report("trajectory", {"tokens": t.n_sampled}))
        loop.clock()
        line = {"round": loop.round, **scores, "seconds": loop.seconds}
        line = alarms.watched(loop.run.path, line, len(loop.pool), loop.config.monitor)
        line = replicas.broadcast_record(loop.ranks, line)  # who has the lines before it
        loop.round, loop.seconds = loop.round + 1, 0.0
        commit.measured(loop, line, last=loop.round > loop.config.rounds)
        report("evaluated", line)
        for text in alarms.alarms_of(line):
            loop.notice(text)
        gc.collect()
        if loop.round <= loop.config.rounds:
            alarms.check(line, loop.config.monitor, resume_command(loop.run.path))
