"""A run from a configuration: base, adapters, sampler, learner, environment; then round after round."""

from __future__ import annotations

import asyncio
import gc
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from aslfast import adapter, evaluate
from aslfast.chat import Chat
from aslfast.config import RunConfig
from aslfast.core import ROLES, Role, Task, Trajectory
from aslfast.environment import Environment, file_environment, lab_environment, model_folder
from aslfast.errors import UserError
from aslfast.learner import Learner
from aslfast.retrieve import AnyIndex
from aslfast.roles import prompt_text
from aslfast.rollout import Limits, Rollout, bounded, stable_seed
from aslfast.rounds import Loop, run_round
from aslfast.run_folder import RunFolder, check_new
from aslfast.sampler.engine_settings import EngineSettings
from aslfast.sampler.local import LocalSampler, eos_ids
from aslfast.sampler.sglang import SGLangSampler, Supervision
from aslfast.tool import SearchTool

# ("setup", {what}) ("evaluating", {round}) ("trajectory", {tokens}: one more, while evaluating)
# ("evaluated", a line of rounds.jsonl) ("step", a line of metrics.jsonl) ("notice", {text}: what a person should know)
Report = Callable[[str, dict[str, Any]], None]


def train(config: RunConfig, out: str | Path, report: Report) -> Path:
    """Runs the whole recipe into the new folder `out`. Raises UserError for bad input before anything is written.

    A run that ends before round 0 is measured leaves nothing behind.
    """
    folder = Path(out)
    check_new(folder)
    existed = folder.exists()
    try:
        _train(config, folder, report)
    except BaseException:
        if not (folder / "rounds.jsonl").exists():
            _clear(folder, existed)
        raise
    return folder


def _clear(folder: Path, keep: bool) -> None:
    """`folder` was missing or empty before: so it is again."""
    shutil.rmtree(folder, ignore_errors=True)
    if keep:
        folder.mkdir(exist_ok=True)


def _train(config: RunConfig, folder: Path, report: Report) -> None:
    prepare_torch(config)
    report("setup", {"what": "data"})
    opened = None if config.data.lab else file_environment(config)
    report("setup", {"what": "base model"})
    model, tokenizer = open_base(config)
    check_context(model, config)
    peft_model = adapter.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed)
    started = start_adapters(peft_model, config)
    learner = Learner(peft_model, config.learner, config.loss, config.sampler.temperature, ROLES)
    report("setup", {"what": f"learner, attention by {learner.attention}"})
    run = RunFolder.create(folder, config)
    with run.writing():
        for role in started:  # version 0 of a fresh adapter is the base, of these it is not
            adapter.save_adapter(peft_model, role, run.adapter_folder(role), 0)
        environment = opened or lab_environment(config, folder / "lab")

    def notice(text: str) -> None:
        report("notice", {"text": text})

    sampler = make_sampler(config, peft_model, tokenizer, folder / "engine.log", notice)
    with closing(sampler):
        if isinstance(sampler, SGLangSampler):
            report("setup", {"what": "the SGLang engine"})
            sampler.start()
        rollout = make_rollout(config, sampler, tokenizer, search_tool(config, environment.index))
        loop = Loop(
            config, rollout, learner, run, environment.topics, sampler.flush, lambda line: report("step", line), notice
        )
        asyncio.run(_rounds(loop, environment, report))


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
    """(model, tokenizer) that the configuration names. Raises UserError."""
    return adapter.load_base(model_folder(config.model.path), getattr(torch, config.model.dtype), config.model.device)


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


def search_tool(config: RunConfig, index: AnyIndex) -> SearchTool:
    return SearchTool(index, config.tool.top_k, config.tool.max_passage_chars)


def make_rollout(config: RunConfig, sampler: Any, tokenizer: Any, tool: SearchTool) -> Rollout:
    limits = Limits(config.sampler.max_turns, config.sampler.max_new_tokens, config.sampler.max_context)
    return Rollout(
        sampler, tool, Chat(tokenizer), limits, config.sampler.temperature, prompt_text(config.model.prompts, "system")
    )


async def _rounds(loop: Loop, environment: Environment, report: Report) -> None:
    """Round 0 measures the base; each later round learns, then measures."""
    for number in range(loop.config.rounds + 1):
        started = time.perf_counter()
        loop.round = number
        if number:
            await run_round(loop)
        report("evaluating", {"round": number})
        line = {"round": number, **await measure(loop, environment, report), "seconds": time.perf_counter() - started}
        loop.run.append("rounds.jsonl", line)
        report("evaluated", line)
        gc.collect()


async def measure(loop: Loop, environment: Environment, report: Report) -> dict[str, Any]:
    """The three roles against the truth, on the same held-out tasks with the same seeds in every round."""
    config = loop.config
    rollout = replace(loop.rollout, tool=search_tool(config, environment.eval_index))
    seed, at_once = stable_seed(config.seed, "evaluation"), 2 * config.sampler.max_rows

    def one_more(trajectory: Trajectory) -> None:
        report("trajectory", {"tokens": trajectory.n_sampled})

    return await true_scores(rollout, environment, seed, at_once, done=one_more)


async def true_scores(
    rollout: Rollout, environment: Environment, seed: int, at_once: int, adapters: bool = True,
    done: Callable[[Trajectory], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The scores of every role that the environment can measure; None for those of the others."""

    async def play(tasks: Sequence[Task]) -> list[Trajectory]:
        return await run_all(rollout, tasks, seed, at_once, adapters, done)

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
