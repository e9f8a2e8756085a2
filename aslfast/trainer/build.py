"""Build what a configuration names: base, adapters, sampler, search tool, rollout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aslfast.config.roles import PREVIOUS
from aslfast.config.schema import RunConfig
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.models.base_model import load_base, model_folder
from aslfast.models.base_source import base_source, reason_not_shared
from aslfast.models.base_weights import BaseWeights
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.schemas import Schema
from aslfast.prompts.templates import system_text
from aslfast.prompts.tool_calls import SEARCH, answers_search, searchers_in
from aslfast.retrieval.client import RemoteIndex, max_request_s
from aslfast.retrieval.retriever import AnyIndex
from aslfast.rollout.environments.own_environment import OwnEnvironment
from aslfast.rollout.model_search import ModelSearch
from aslfast.rollout.multi_turn import Rollout
from aslfast.rollout.open_trajectory import Limits
from aslfast.rollout.search_tool import SEARCH_SCHEMA, SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rollout.tool_runner import CallLimits, ToolRunner
from aslfast.rollout.toolbox import RoleTools, Toolbox, ToolCaller
from aslfast.sampler.follower import FollowerSampler
from aslfast.sampler.local.forward_pass import eos_ids
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sampler
from aslfast.sampler.sglang.engine_supervisor import RestartPolicy
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.sampler.sglang.server_args import EngineArgs
from aslfast.sampler.sglang.shared_weights import engine_views
from aslfast.sampler.sglang.sync_check import GroupScorer, WeightSyncCheck, check_prompts
from aslfast.tools.named import load_tools
from aslfast.trainer.forward_check import open_local_sampler


def prepare_torch(config: RunConfig) -> None:
    """Set torch's threads, seed and determinism."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    debugging: Any = torch.utils.deterministic
    debugging.fill_uninitialized_memory = False  # else every new tensor is written to
    # oneDNN keeps what it compiles for each shape of a 16-bit product on a CPU, by default 1,024 of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may sum in any order


def load_base_model(
    config: RunConfig, process_group: ProcessGroup = SINGLE_PROCESS
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return (model, tokenizer) that the configuration names; without weights where `BaseWeights` is to bring them:
    from an engine, or split over several ranks. Raise UserError.
    """
    folder = model_folder(config.model.path)
    source = base_source(folder, config.sampler, process_group.model_parallel_size)
    return load_base(folder, getattr(torch, config.model.dtype), config.model.device, source)


def build_sampler(
    config: RunConfig, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, log: Path | None = None,
    notify: Callable[[str], None] = lambda _: None, process_group: ProcessGroup = SINGLE_PROCESS,
) -> LocalSampler | SGLangSampler | FollowerSampler:  # fmt: skip
    """Return the sampler that the configuration names, over the model's adapters if it has any. Raise UserError.

    log: an engine's output; None: a temporary file. notify: called with one line about each event of an engine.
    """
    if not process_group.is_group_leader:
        return FollowerSampler()
    wanted = config.sampler
    if wanted.kind == "local":
        return open_local_sampler(model, tokenizer, wanted, config.model.prompts)
    policy = _restart_policy(config, model, log, notify, process_group.model_parallel_size)
    embeddings: Any = model.get_input_embeddings()
    args, n_vocab = engine_args(config, model, process_group), embeddings.weight.shape[0]
    sampler = SGLangSampler(args, eos_ids(model, tokenizer), n_vocab, policy)
    if isinstance(model, PeftModel):
        sampler.attach(model)
    return sampler


def _restart_policy(
    config: RunConfig, model: nn.Module, log: Path | None, notify: Callable[[str], None], model_parallel_size: int
) -> RestartPolicy:
    """Return the policy for this base, and notify of where an engine's weights will be."""
    wanted, folder = config.sampler, model_folder(config.model.path)
    policy = RestartPolicy(wanted.engine_timeout_s, wanted.engine_restarts, log, notify)
    if model_parallel_size > 1:
        notify(f"base: {model_parallel_size} parts in the ranks of a model-parallel group, as many in its engine")
        return policy
    if reason := reason_not_shared(folder, wanted.share_base):
        notify(f"base: two copies ({reason})")
        return policy
    base = BaseWeights(model, folder, notify)
    return replace(
        policy, before_start=base.release, after_start=lambda engine: base.share_or_load(partial(engine_views, engine))
    )


def engine_args(
    config: RunConfig, model: PreTrainedModel | PeftModel, process_group: ProcessGroup = SINGLE_PROCESS
) -> EngineArgs:
    """Return the arguments of this model's engine, on all GPUs of the model-parallel group, with room for adapters."""
    wanted, adapters = config.sampler, len(model.peft_config) if isinstance(model, PeftModel) else 0
    parts = process_group.model_parallel_size
    return EngineArgs(
        folder=str(model_folder(config.model.path)), device=model.device.type, dtype=config.model.dtype,
        max_running_requests=wanted.max_running_requests, max_context=wanted.max_context, max_adapters=adapters,
        lora_rank=config.lora.rank if adapters else 0,
        lora_targets=tuple(lora.targets_of(model)) if adapters else (), radix_cache=wanted.radix_cache,
        deterministic=wanted.deterministic, share_base=wanted.share_base and parts == 1,
        gpu_memory=wanted.gpu_memory_fraction, tensor_parallel=parts, gpus=process_group.gpus,
    )  # fmt: skip


def init_adapters(model: PeftModel, config: RunConfig) -> list[str]:
    """Load the adapters that roles.<role>.init_adapter names; return their names. Raise UserError."""
    loaded = []
    for name in config.adapters:
        role = name.removesuffix(PREVIOUS)
        if folder := config.all_roles[role].init_adapter:
            lora.load_adapter(model, name, Path(folder))
            loaded += [name] if role == name else []
    return loaded


def build_search_tool(config: RunConfig, index: AnyIndex | None) -> ToolExecutor:
    """Return the search tool: in threads if the index or the sampler runs elsewhere, else inline and reproducible."""
    tool = SearchTool(index, config.tool.top_k, config.tool.max_passage_chars)
    threaded = isinstance(index, RemoteIndex) or config.sampler.kind != "local"
    deadline_s = max_request_s(config.tool.timeout_s, config.tool.retries)
    return ToolExecutor(tool, threaded, deadline_s, config.tool.give_up_after_s)


def build_tools(config: RunConfig, index: AnyIndex | None) -> ToolExecutor | Toolbox:
    """Return the tools that the recipe names. Raise UserError."""
    search, wanted = build_search_tool(config, index), config.tool
    if all(map(answers_search, config.tools)):
        return search
    limits = CallLimits(wanted.timeout_s, wanted.max_concurrent, wanted.max_result_chars, wanted.give_up_after_s)
    threaded = config.sampler.kind != "local"
    runners = {tool.name: ToolRunner(tool, threaded, limits) for tool in load_tools(config.tools)}
    return Toolbox(search if SEARCH in config.tools else None, runners)


def check_tools_fit(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where the tools' schemas leave no room in the context for a task and a turn."""
    if not (schemas := _schemas(config.tools)):
        return
    chat, system = Chat(tokenizer, config.model.prompt_date, schemas), system_text(config.model.prompts, False)
    told, room = len(chat.prompt_ids("", system)), config.sampler.max_context - config.sampler.max_new_tokens
    if told >= room:
        what = f"a prompt that tells of them has {told} tokens, sampler.max_context less a turn is {room}"
        raise UserError(f"tools: {what}; set sampler.max_context to {told + 8 * config.sampler.max_new_tokens} or more")


def build_rollout(
    config: RunConfig, sampler: Sampler, tokenizer: PreTrainedTokenizerBase, tool: ToolCaller,
    environment: OwnEnvironment | None = None,
) -> Rollout:  # fmt: skip
    """Return the rollout with the recipe's limits, temperature and system prompt."""
    wanted = config.sampler
    limits = Limits(wanted.max_turns, wanted.max_new_tokens, wanted.max_context, config.tool.max_calls)
    chat = Chat(tokenizer, config.model.prompt_date, tool.schemas)
    system = system_text(config.model.prompts, only_search=not tool.schemas)
    played = environment if environment and environment.plays else None
    own = {name: _role_tools(config, name, tokenizer) for name in config.all_roles if _has_own_tools(config, name)}
    return Rollout(sampler, tool, chat, limits, wanted.temperature, system, played, config.all_roles, own)


def _has_own_tools(config: RunConfig, role: str) -> bool:
    entries = config.tools_of(role)
    return entries != config.tools or bool(searchers_in(entries))


def _role_tools(config: RunConfig, role: str, tokenizer: PreTrainedTokenizerBase) -> RoleTools:
    """Return the tools that a role has of its own, and how it is told of them; without any, it is told of none."""
    entries = config.tools_of(role)
    schemas, names = _schemas(entries), [tool.name for tool in load_tools(entries)]
    names = [SEARCH, *names] if any(map(answers_search, entries)) else names
    system = system_text(config.model.prompts, only_search=not schemas) if entries else ""
    return RoleTools(names, Chat(tokenizer, config.model.prompt_date, schemas), system, _searcher(config, entries))


def _searcher(config: RunConfig, entries: Sequence[str]) -> ModelSearch | None:
    """Return who answers searches; None where the index does."""
    for name in searchers_in(entries):
        role = config.roles[name]
        return ModelSearch(name, role.prompt, role.output, config.tool.max_passage_chars)
    return None


def _schemas(entries: Sequence[str]) -> list[Schema]:
    """Return what a prompt tells of these tools; nothing of the search alone, which the prompt's own words tell of."""
    own = [tool.schema for tool in load_tools(entries)]
    return [SEARCH_SCHEMA, *own] if own and any(map(answers_search, entries)) else own


def weight_sync_check(
    sampler: LocalSampler | SGLangSampler | FollowerSampler, model: PeftModel, tokenizer: PreTrainedTokenizerBase,
    config: RunConfig, process_group: ProcessGroup = SINGLE_PROCESS,
) -> Callable[[], dict[str, float]]:  # fmt: skip
    """Return the check that the sampler serves these weights; the local sampler reads them and needs none."""
    if isinstance(sampler, LocalSampler):
        return dict
    prompts = check_prompts(Chat(tokenizer, config.model.prompt_date), config.model.prompts, config.adapters)
    return WeightSyncCheck(GroupScorer(sampler, process_group), model, prompts).check
