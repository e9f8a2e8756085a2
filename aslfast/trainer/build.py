"""The parts that a configuration names, put together: base, adapters, sampler, tool, rollout."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from aslfast.config.schema import RunConfig
from aslfast.core import role_of
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.models.fsdp import check_shardable
from aslfast.models.weight_files import BaseWeights, load_without_weights, reason_not_shared
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.role_tasks import prompt_text
from aslfast.retrieval.client import RemoteIndex, max_request_s
from aslfast.retrieval.retriever import AnyIndex
from aslfast.rollout.multi_turn import Limits, Rollout
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.sampler.local.sampler import LocalSampler, eos_ids
from aslfast.sampler.sglang.sampler import RestartPolicy, SGLangSampler
from aslfast.sampler.sglang.server_args import EngineSettings
from aslfast.sampler.sglang.sync_check import Probe, probe_prompts
from aslfast.sampler.sglang.tensor_parallel import FollowerSampler, GroupScores
from aslfast.trainer.datasets import model_folder


def prepare_torch(config: RunConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    debugging: Any = torch.utils.deterministic
    debugging.fill_uninitialized_memory = False  # it writes to every new tensor
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else the order of cuBLAS's sums may change


def check_context(model: Any, config: RunConfig) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions < config.sampler.max_context:
        wanted = f"sampler.max_context is {config.sampler.max_context}"
        raise UserError(f"{wanted}, the model has {positions} positions; set it to {positions} or less")


def load_base_model(config: RunConfig, ranks: ProcessGroup = SINGLE_PROCESS) -> tuple[Any, Any]:
    """(model, tokenizer) that the configuration names; the model without weights where an engine brings them, or where
    several ranks hold them between them (shards.hold_part). Raises UserError.
    """
    folder, dtype = model_folder(config.model.path), getattr(torch, config.model.dtype)
    if ranks.model_parallel_size > 1:
        check_shardable(folder, ranks.model_parallel_size)
    from_engine = config.sampler.kind == "sglang" and not reason_not_shared(folder, config.sampler.share_base)
    load = load_without_weights if from_engine or ranks.model_parallel_size > 1 else lora.load_weights
    return lora.load_base(folder, dtype, config.model.device, load)


def build_sampler(
    config: RunConfig, model: Any, tokenizer: Any, log: Path | None = None,
    notice: Callable[[str], None] = lambda _: None, ranks: ProcessGroup = SINGLE_PROCESS,
) -> LocalSampler | SGLangSampler:  # fmt: skip
    """The sampler that the configuration names, over the model's adapters if it has any. Raises UserError.

    log: where an engine's words go; None: a temporary file.
    """
    wanted = config.sampler
    if wanted.kind == "local":
        return LocalSampler(
            model, tokenizer, max_running_requests=wanted.max_running_requests, max_context=wanted.max_context
        )
    supervision = RestartPolicy(wanted.engine_timeout_s, wanted.engine_restarts, log, notice)
    folder = model_folder(config.model.path)
    if ranks.model_parallel_size > 1:
        notice(f"base: {ranks.model_parallel_size} parts in the ranks of a cell, as many in its engine")
    elif reason := reason_not_shared(folder, wanted.share_base):
        notice(f"base: two copies ({reason})")
    else:
        base = BaseWeights(model, folder, notice)
        supervision = replace(supervision, before_start=base.release, after_start=base.bind)
    n_vocab = model.get_input_embeddings().weight.shape[0]
    sampler = SGLangSampler(engine_settings(config, model, ranks), eos_ids(model, tokenizer), n_vocab, supervision)
    if isinstance(model, PeftModel):
        sampler.attach(model)
    return sampler


def engine_settings(config: RunConfig, model: Any, ranks: ProcessGroup = SINGLE_PROCESS) -> EngineSettings:
    """The engine for this model, on all GPUs of the cell; with room for adapters where it has some."""
    wanted, adapters = config.sampler, len(model.peft_config) if isinstance(model, PeftModel) else 0
    return EngineSettings(
        folder=str(model_folder(config.model.path)), device=model.device.type, dtype=config.model.dtype,
        max_running_requests=wanted.max_running_requests, max_context=wanted.max_context, max_adapters=adapters,
        lora_rank=config.lora.rank if adapters else 0,
        lora_targets=tuple(lora.targets_of(model)) if adapters else (), radix_cache=wanted.radix_cache,
        deterministic=wanted.deterministic, share_base=wanted.share_base and ranks.model_parallel_size == 1,
        gpu_memory=wanted.gpu_memory_fraction, tensor_parallel=ranks.model_parallel_size, gpus=ranks.gpus,
    )  # fmt: skip


def init_adapters(model: PeftModel, config: RunConfig) -> list[str]:
    """Load what roles.<role>.init_adapter names; return the adapters that start from one. Raises UserError."""
    started = []
    for name in config.adapters:
        if folder := getattr(config.roles, role_of(name)).init_adapter:
            lora.load_adapter(model, name, Path(folder))
            started.append(name)
    return started


def build_search_tool(config: RunConfig, index: AnyIndex) -> ToolExecutor:
    """Return the search tool: in threads where the index or the sampler works elsewhere, else inline and reproducible."""
    tool = SearchTool(index, config.tool.top_k, config.tool.max_passage_chars)
    threaded = isinstance(index, RemoteIndex) or config.sampler.kind != "local"
    deadline_s = max_request_s(config.tool.timeout_s, config.tool.retries)
    return ToolExecutor(tool, threaded, deadline_s, config.tool.give_up_after_s)


def build_rollout(config: RunConfig, sampler: Any, tokenizer: Any, tool: ToolExecutor) -> Rollout:
    limits = Limits(config.sampler.max_turns, config.sampler.max_new_tokens, config.sampler.max_context)
    return Rollout(
        sampler, tool, Chat(tokenizer), limits, config.sampler.temperature, prompt_text(config.model.prompts, "system")
    )


def weight_sync_check(
    sampler: LocalSampler | SGLangSampler | FollowerSampler, model: PeftModel, tokenizer: Any, config: RunConfig,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> Callable[[], dict[str, float]]:  # fmt: skip
    """Return a check that the sampler serves these weights; the local sampler reads them and needs none."""
    if isinstance(sampler, LocalSampler):
        return dict
    prompts = probe_prompts(Chat(tokenizer), config.model.prompts, config.adapters)
    return Probe(GroupScores(sampler, ranks), model, prompts).prove
