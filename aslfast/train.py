"""A run from a configuration: base, adapters, sampler, learner, environment; then round after round."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from aslfast import adapter, commits, evaluate, sharing
from aslfast.chat import Chat
from aslfast.config import RunConfig
from aslfast.core import ROLES, Role, Task, Trajectory
from aslfast.environment import Environment, file_environment, lab_environment, model_folder
from aslfast.errors import UserError
from aslfast.frozen_base import FrozenBase, load_skeleton, why_two_copies
from aslfast.learner import Learner
from aslfast.loop import Loop
from aslfast.ranks import ALONE, Ranks, joined
from aslfast.remote import RemoteIndex, longest_s
from aslfast.retrieve import AnyIndex
from aslfast.roles import prompt_text
from aslfast.rollout import Limits, Rollout, bounded, stable_seed
from aslfast.rounds import run_round
from aslfast.run_facts import compare, facts_of
from aslfast.run_folder import LEDGER, RunFolder, check_new, read_run_config, resume_command
from aslfast.sampler.engine_settings import EngineSettings
from aslfast.sampler.local import LocalSampler, eos_ids
from aslfast.sampler.probe import Probe, probe_prompts
from aslfast.sampler.sglang import SGLangSampler, Supervision
from aslfast.tool import SearchTool
from aslfast.tool_pool import ToolPool

# ("setup", {what}) ("resumed", {round, phases_done, phase_step}) ("step", a line of metrics.jsonl)
# ("evaluating", {round}) ("trajectory", {tokens}: one more, while evaluating) ("evaluated", a line of rounds.jsonl)
# ("notice", {text}: what a person should know)
Report = Callable[[str, dict[str, Any]], None]


def train(config: RunConfig, out: str | Path, report: Report) -> Path:
    """Runs the whole recipe into the new folder `out`. Raises UserError for bad input before anything is written.

    An error before round 0 is measured leaves nothing behind. A run that is stopped or killed can be resumed.
    """
    folder = Path(out)
    with joined(resume_command(folder)) as ranks:
        if ranks.restarted and ranks.from_first(b"1" if (folder / LEDGER).exists() else b""):
            _resume(folder, report, ranks)
        else:
            _train(sharing.agreed(ranks, lambda: config), folder, report, ranks)
    return folder


def _train(config: RunConfig, folder: Path, report: Report, ranks: Ranks) -> None:
    if ranks.first:
        check_new(folder)
    parts = _open_parts(config, report, ranks)
    existed = folder.exists()
    with RunFolder.create(folder, config) if ranks.first else sharing.OtherFolder() as run:
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
    with joined(resume_command(folder)) as ranks:
        _resume(folder, report, ranks)
    return folder


def _resume(folder: Path, report: Report, ranks: Ranks) -> None:
    config = sharing.agreed(ranks, lambda: read_run_config(folder))
    with RunFolder.take_up(folder) if ranks.first else sharing.OtherFolder() as taken:
        for notice in taken.notices:
            report("notice", {"text": notice})
        if ranks.from_first(b"1" if ranks.first and taken.round > config.rounds else b""):
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
    given: list[Role]  # roles that start from an adapter of another run


def _open_parts(config: RunConfig, report: Report, ranks: Ranks) -> _Parts:
    prepare_torch(config)
    report("setup", {"what": "data"})
    opened = None if config.data.lab else file_environment(config)
    report("setup", {"what": "base model"})
    model, tokenizer = open_base(config)
    check_context(model, config)
    peft_model = adapter.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed)
    given = start_adapters(peft_model, config)
    learner = Learner(peft_model, config.learner, config.loss, config.sampler.temperature, ROLES, ranks)
    report("setup", {"what": f"learner, attention by {learner.attention}"})
    ranks.wait()  # what one of them lacks ends all before anything is written
    return _Parts(learner, tokenizer, opened, given)


def _go_on(config: RunConfig, parts: _Parts, run: RunFolder, report: Report) -> None:
    """From the run's last commit, or from the beginning where there is none."""

    def notice(text: str) -> None:
        report("notice", {"text": text})

    with run.writing():
        environment = parts.environment or lab_environment(config, run.path / "lab")
    sampler = make_sampler(config, parts.learner.model, parts.tokenizer, run.path / "engine.log", notice)
    with closing(sampler):
        if isinstance(sampler, SGLangSampler):
            report("setup", {"what": "the SGLang engine"})
            sampler.start()
        rollout = make_rollout(config, sampler, parts.tokenizer, search_tool(config, environment.index))
        loop = Loop(
            config, rollout, parts.learner, run, environment.topics, sampler.flush, lambda line: report("step", line),
            notice, prover(sampler, parts, config),
        )  # fmt: skip
        if loop.ranks.first:
            _begin(loop, parts, report)
        sharing.begin_alike(loop.learner, loop, facts_of(config)["inputs"])
        loop.flush()
        loop.prove()
        play(loop, environment, report)
    run.finish()


def _begin(loop: Loop, parts: _Parts, report: Report) -> None:
    """Commits the start of a new run, or takes up what was committed of another."""
    run, facts = loop.run, facts_of(loop.config)
    facts["software"]["ranks"] = str(loop.ranks.size)
    if run.facts:
        for text in compare(run.facts, facts):
            loop.notice(text)
        commits.take_up(loop)
        done = [role for number, role in loop.phases_done if number == loop.round]
        report("resumed", {"round": loop.round, "phases_done": done, "phase_step": loop.phase_step})
        return
    commits.begun(loop, facts, parts.given)


def prover(sampler: LocalSampler | SGLangSampler, parts: _Parts, config: RunConfig) -> Callable[[], dict[str, float]]:
    """Proves after each push that the sampler serves these weights; the local one needs no proof, it reads them."""
    if isinstance(sampler, LocalSampler):
        return dict
    return Probe(sampler, parts.learner.model, probe_prompts(Chat(parts.tokenizer), config.model.prompts, ROLES)).prove


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


def prepare_torch(config: RunConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_context(model: Any, config: RunConfig) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions < config.sampler.max_context:
        wanted = f"sampler.max_context is {config.sampler.max_context}"
        raise UserError(f"{wanted}, the model has {positions} positions; set it to {positions} or less")


def open_base(config: RunConfig) -> tuple[Any, Any]:
    """(model, tokenizer) that the configuration names; the model without weights where an engine brings them.

    Raises UserError.
    """
    folder, dtype = model_folder(config.model.path), getattr(torch, config.model.dtype)
    from_engine = config.sampler.kind == "sglang" and not why_two_copies(folder, config.sampler.share_base)
    load = load_skeleton if from_engine else adapter.load_weights
    return adapter.load_base(folder, dtype, config.model.device, load)


def make_sampler(
    config: RunConfig, model: Any, tokenizer: Any, log: Path | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> LocalSampler | SGLangSampler:  # fmt: skip
    """The sampler that the configuration names, over the model's adapters if it has any. Raises UserError.

    log: where an engine's words go; None: a temporary file.
    """
    wanted = config.sampler
    if wanted.kind == "local":
        return LocalSampler(model, tokenizer, max_rows=wanted.max_rows, max_context=wanted.max_context)
    supervision = Supervision(wanted.engine_timeout_s, wanted.engine_restarts, log, notice)
    folder = model_folder(config.model.path)
    if reason := why_two_copies(folder, wanted.share_base):
        notice(f"base: two copies ({reason})")
    else:
        base = FrozenBase(model, folder, notice)
        supervision = replace(supervision, before_start=base.release, after_start=base.bind)
    n_vocab = model.get_input_embeddings().weight.shape[0]
    sampler = SGLangSampler(engine_settings(config, model), eos_ids(model, tokenizer), n_vocab, supervision)
    if isinstance(model, PeftModel):
        sampler.attach(model)
    return sampler


def engine_settings(config: RunConfig, model: Any) -> EngineSettings:
    """The engine for this model; with room for adapters where it has some."""
    wanted, adapters = config.sampler, len(model.peft_config) if isinstance(model, PeftModel) else 0
    return EngineSettings(
        folder=str(model_folder(config.model.path)), device=model.device.type, dtype=config.model.dtype,
        max_rows=wanted.max_rows, max_context=wanted.max_context, max_adapters=adapters,
        lora_rank=config.lora.rank if adapters else 0,
        lora_targets=tuple(adapter.targets_of(model)) if adapters else (), radix_cache=wanted.radix_cache,
        deterministic=wanted.deterministic, share_base=wanted.share_base, gpu_memory=wanted.gpu_memory,
    )  # fmt: skip


def start_adapters(model: PeftModel, config: RunConfig) -> list[Role]:
    """Loads what roles.<role>.init_adapter names; the roles that have one. Raises UserError."""
    started: list[Role] = []
    for role in ROLES:
        if folder := getattr(config.roles, role).init_adapter:
            adapter.load_adapter(model, role, Path(folder))
            started.append(role)
    return started


def search_tool(config: RunConfig, index: AnyIndex) -> ToolPool:
    """In threads where the index or the sampler works elsewhere; else inline, for the sake of reproducibility."""
    tool = SearchTool(index, config.tool.top_k, config.tool.max_passage_chars)
    threaded = isinstance(index, RemoteIndex) or config.sampler.kind != "local"
    deadline_s = longest_s(config.tool.timeout_s, config.tool.retries)
    return ToolPool(tool, threaded, deadline_s, config.tool.gone_after_s)


def make_rollout(config: RunConfig, sampler: Any, tokenizer: Any, tool: ToolPool) -> Rollout:
    limits = Limits(config.sampler.max_turns, config.sampler.max_new_tokens, config.sampler.max_context)
    return Rollout(
        sampler, tool, Chat(tokenizer), limits, config.sampler.temperature, prompt_text(config.model.prompts, "system")
    )


async def _rounds(loop: Loop, environment: Environment, report: Report) -> None:
    """Round 0 measures the base; each later round learns, then measures."""
    while loop.round <= loop.config.rounds:
        loop.since = time.perf_counter()
        if loop.round:
            await run_round(loop)
        report("evaluating", {"round": loop.round})
        scores = await measure(loop, environment, report)
        loop.clock()
        line = {"round": loop.round, **scores, "seconds": loop.seconds}
        loop.round, loop.seconds = loop.round + 1, 0.0
        commits.measured(loop, line, last=loop.round > loop.config.rounds)
        report("evaluated", line)
        gc.collect()


async def measure(loop: Loop, environment: Environment, report: Report) -> dict[str, Any]:
    """The three roles against the truth, on the same held-out tasks with the same seeds in every round."""
    config = loop.config
    loop.flush()
    rollout = replace(loop.rollout, tool=search_tool(config, environment.eval_index))
    seed, at_once = stable_seed(config.seed, "evaluation"), 2 * config.sampler.max_rows

    def one_more(trajectory: Trajectory) -> None:
        report("trajectory", {"tokens": trajectory.n_sampled})

    return await true_scores(rollout, environment, seed, at_once, done=one_more, ranks=loop.ranks)


async def true_scores(
    rollout: Rollout, environment: Environment, seed: int, at_once: int, adapters: bool = True,
    done: Callable[[Trajectory], None] | None = None, ranks: Ranks = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """The scores of every role that the environment can measure; None for those of the others."""

    async def play(tasks: Sequence[Task]) -> list[Trajectory]:
        return await sharing.played(ranks, tasks, lambda own: run_all(rollout, own, seed, at_once, adapters, done))

    scores = evaluate.policy_scores(await play(environment.policy_evals))
    scores |= {"grm_accuracy": None, "solvable_share": None}
    if environment.grm_evals:
        scores |= evaluate.grm_scores(await play(environment.grm_evals))
    if environment.generator_evals and environment.oracle:
        written = await play(environment.generator_evals)
        scores |= evaluate.generator_scores(written, environment.oracle)
    return scores


async def run_all(
    rollout: Rollout, tasks: Sequence[Task], seed: int, at_once: int, adapters: bool = True,
    done: Callable[[Trajectory], None] | None = None, version: int = 0,
) -> list[Trajectory]:  # fmt: skip
    """One trajectory a task, each with its role's adapter (or all with the base), in order."""

    async def one(task: Task) -> Trajectory:
        trajectory = await rollout.run(task, 0, seed, task.role if adapters else None, version)
        if done:
            done(trajectory)
        return trajectory

    return await bounded([lambda task=task: one(task) for task in tasks], at_once)
