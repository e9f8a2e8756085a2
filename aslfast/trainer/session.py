"""A model folder, or a run with its latest adapter, opened to play one role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from aslfast.checkpoint.run_dir import read_run_config
from aslfast.config import load_recipe
from aslfast.config.roles import BASE, PREVIOUS, RoleConfig, adapter_of
from aslfast.config.schema import ModelConfig, RunConfig, SamplerConfig
from aslfast.core import Task, Trajectory
from aslfast.errors import UserError
from aslfast.files.shipped import LAB_BASES
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.models.context_limit import context_limit
from aslfast.prompts.tool_calls import searchers_in
from aslfast.retrieval.retriever import AnyIndex
from aslfast.rollout.multi_turn import Rollout, stable_seed
from aslfast.trainer.build import build_rollout, build_sampler, build_tools, load_base_model, prepare_torch
from aslfast.trainer.evaluation import Evaluation

MIN_NEW_TOKENS = 16  # a turn; fewer are too short for any output
LAB_RECIPES = {"lab": "tiny", "lab2": "tiny2"}  # which plays a base of the lab in its world


@dataclass(frozen=True)
class Session:
    """An opened model that plays one role. adapter_name None: the base alone."""

    config: RunConfig
    rollout: Rollout
    adapter_name: str | None
    version: int

    def play(self, tasks: Sequence[Task], done: Callable[[Trajectory], None] = lambda _: None) -> list[Trajectory]:
        """Return one trajectory per task, with the seeds that the evaluation of a run uses."""
        evaluation = Evaluation(
            self._fitted_rollout(tasks), stable_seed(self.config.seed, "evaluation"),
            2 * self.config.sampler.max_running_requests, self.adapter_name is not None, self.version, done,
        )  # fmt: skip
        return asyncio.run(evaluation.play(tasks))

    def _fitted_rollout(self, tasks: Sequence[Task]) -> Rollout:
        """Return the rollout, with shorter turns if the context is too small for the longest prompt and a turn."""
        limits, chat = self.rollout.limits, self.rollout.chat
        longest = max(len(chat.prompt_ids(task.prompt, self.rollout.system)) for task in tasks)
        if longest + limits.max_new_tokens <= limits.max_context:
            return self.rollout
        room = (limits.max_context - longest) // 2
        if room < MIN_NEW_TOKENS:
            raise UserError(
                f"{self.config.model.path}: the longest prompt has {longest} tokens, the context {limits.max_context}: "
                "use --prompts compact, a larger --max-context, or a model with a longer context"
            )
        return replace(self.rollout, limits=replace(limits, max_new_tokens=min(room, limits.max_new_tokens)))


def settings_of(target: str, prompts: str | None = None) -> RunConfig:
    """Return a run's configuration, that of its recipe for a base of the lab, defaults for other models.

    Raise UserError.
    """
    folder = model_folder(target)
    if (folder / "config.toml").is_file():
        config = read_run_config(folder)
    elif (folder / "config.json").is_file():
        recipes = {LAB_BASES[name].resolve(): recipe for name, recipe in LAB_RECIPES.items()}
        recipe = recipes.get(folder.resolve())
        config = load_recipe(recipe) if recipe else _defaults()
        config = replace(config, recipe="", model=replace(config.model, path=target))
    else:
        raise UserError(
            f"{folder}: neither a run (config.toml) nor a model (config.json); name a folder that holds one"
        )
    return replace(config, model=replace(config.model, prompts=prompts)) if prompts else config


def _defaults() -> RunConfig:
    """Return tight limits: a model that never stops must not spend an hour on a handful of questions."""
    return RunConfig(
        model=ModelConfig(prompts="full"),
        sampler=SamplerConfig(max_running_requests=64, max_turns=5, max_new_tokens=512, max_context=4096),
    )


def open_session(target: str, config: RunConfig, index: AnyIndex, role: str) -> Session:
    """Open the model of `config` and, if `target` is a run, the latest adapters of the role and of the one that answers
    its searches. Raise UserError."""
    if role not in config.all_roles:
        raise UserError(f"{target}: its recipe has no role {role}; it has {', '.join(config.all_roles)}")
    prepare_torch(config)
    model, tokenizer = load_base_model(config)
    model, versions = _with_adapters(model, model_folder(target), config, role)
    limit = context_limit(model.get_decoder().config)
    if limit and limit.tokens < config.sampler.max_context:
        config = replace(config, sampler=replace(config.sampler, max_context=limit.tokens))
    sampler = build_sampler(config, model, tokenizer)
    rollout = build_rollout(config, sampler, tokenizer, build_tools(config, index))
    rollout = replace(rollout, roles=_with_those(versions, rollout.roles))
    adapter = config.adapter_of(role)
    return Session(config, rollout, role if adapter in versions else None, versions.get(adapter or "", 0))


def _with_adapters(
    model: PreTrainedModel, folder: Path, config: RunConfig, role: str
) -> tuple[PreTrainedModel | PeftModel, dict[str, int]]:
    """Return the model with the latest adapters that play the role and answer its searches, and their versions by name;
    none where there is none."""
    played = [role, *searchers_in(config.tools_of(role))]
    names = [name for name in dict.fromkeys(map(config.adapter_of, played)) if name]
    # a round that began now would make NAME@previous of the latest NAME
    found = {name: lora.latest(folder / "adapters" / name.removesuffix(PREVIOUS)) for name in names}
    latest = {name: file for name, file in found.items() if file}
    if not latest:
        return model, {}
    peft_model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed, tuple(latest))
    for name, file in latest.items():
        lora.load_adapter(peft_model, name, file)
    return peft_model, {name: int(file.name[1:]) for name, file in latest.items()}


def _with_those(adapters: Collection[str], roles: Mapping[str, RoleConfig]) -> dict[str, RoleConfig]:
    """Return the roles, those on the base whose adapter is not among these: one without a step is the base itself."""
    return {name: role if adapter_of(roles, name) in adapters else replace(role, adapter=BASE)
            for name, role in roles.items()}  # fmt: skip
