"""The doctor's checks of a sampler, on a model with the adapters of a recipe, of random weights.

Log-probs of sampled tokens against the trainer's own forward pass, one copy of the base, and reused keys and values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from aslfast.config import RunConfig
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.prompts.chat_template import Chat
from aslfast.sampler.follower import FollowerSampler
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sample, SampleRequest, Scorer
from aslfast.sampler.sglang.engine_client import RequestRefused
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.sampler.sglang.sync_check import (
    PROMPT_TOKENS,
    TOLERANCE,
    check_prompts,
    largest_difference,
    logprobs,
    score,
)
from aslfast.trainer.build import build_sampler, load_base_model
from aslfast.trainer.forward_check import Ids, check_learner, probe_ids
from aslfast.trainer.preflight.check import CheckResult
from aslfast.trainer.session import settings_of

Kind = Literal["local", "sglang"]
AnySampler = LocalSampler | SGLangSampler | FollowerSampler
Prompts = Mapping[str, tuple[int, ...]]  # by adapter, as token ids
NEW_TOKENS = 16
LEAST_REUSE = 0.95  # of a second turn's known tokens: the fraction that should come from the cache
LEAST_EFFECT = 10  # times the tolerance: how far the random adapters must at least be from the base


@dataclass(frozen=True, slots=True)
class PrefixReuse:
    """reusable: tokens of the second turn that ran in the first; cached: those that did not run again."""

    reusable_tokens: int
    cached_tokens: int
    fraction: float


@dataclass(frozen=True, slots=True)
class SamplerReport:
    """logprob_difference: the largest between sampler and trainer, by adapter. learner_difference: the largest between
    the learner and the model's own forward pass; None where the learner does not support the model.
    """

    kind: Kind
    logprob_difference: dict[str, float]
    base_shared: bool
    base_bytes: int
    reuse: PrefixReuse
    learner_difference: float | None = None

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON data."""
        return asdict(self)


def check_sampler(kind: Kind, target: str) -> tuple[list[CheckResult], SamplerReport | None]:
    """Open model and sampler and check both; return a failed result, and no report, where one does not open."""
    try:
        return _open_and_check(kind, target)
    except (UserError, RequestRefused, OSError) as error:
        detail, _, suggestion = str(error).partition("; ")
        return [CheckResult("sampler", "failed", detail, suggestion or "check the model folder")], None


def _open_and_check(kind: Kind, target: str) -> tuple[list[CheckResult], SamplerReport]:
    config = _config(kind, target)
    model, tokenizer = load_base_model(config)
    model = with_random_adapters(model, config)
    warnings: list[str] = []
    with closing(build_sampler(config, model, tokenizer, notify=warnings.append)) as sampler:
        prompts = check_prompts(Chat(tokenizer), config.model.prompts, config.adapters)
        results, report = check_opened(sampler, model, prompts, warnings)
        result, difference = check_learner_path(config, model, probe_ids(model, tokenizer, config.model.prompts))
    adapted = CheckResult("adapters", "ok", f"on {lora.describe_targets(model)}")
    return [*results, result, adapted], replace(report, learner_difference=difference)


def check_learner_path(config: RunConfig, model: PeftModel, ids: Ids) -> tuple[CheckResult, float | None]:
    """Compare what the learner computes with the model's own forward pass, under every adapter."""
    try:
        learner = Learner(model, config.learner, config.loss, config.sampler.temperature or 1.0, config.adapters)
        differences = []
        for role in config.adapters:
            model.set_adapter(role)
            differences.append(check_learner(learner, ids))
    except UserError as error:
        detail, _, suggestion = str(error).partition("; ")
        return CheckResult("learner", "failed", detail, suggestion), None
    largest = max(differences)
    return CheckResult("learner", "ok", f"log-probs differ from the model's own by {largest:.1g} at most"), largest


def _config(kind: Kind, target: str) -> RunConfig:
    config = settings_of(target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    sampler = replace(config.sampler, kind=kind, max_running_requests=8, max_context=8 * PROMPT_TOKENS)
    return replace(config, model=replace(config.model, device=device, dtype=dtype), sampler=sampler)


def with_random_adapters(model: PreTrainedModel, config: RunConfig) -> PeftModel:
    """Return the model with adapters whose B has random weights, from a fixed seed: fresh ones are the base itself."""
    adapted = lora.add_adapters(model, config.lora.rank, config.lora.alpha, 0, config.adapters)
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapted.named_parameters():
        if ".lora_B." in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return adapted


def check_opened(
    sampler: AnySampler, model: PeftModel, prompts: Prompts, warnings: Sequence[str]
) -> tuple[list[CheckResult], SamplerReport]:
    """Check an opened sampler against the trainer's model. warnings: what opening it warned about."""
    samples, second = asyncio.run(_sample_two_turns(sampler, prompts))
    last = [*prompts][-1]
    tolerance = TOLERANCE[model.get_input_embeddings().weight.dtype]
    results, differences = [], {}
    for role, sample in samples.items():
        result, differences[role] = _check_logprobs(model, role, prompts[role], sample, tolerance)
        results.append(result)
    n_bytes = base_bytes(model)
    shared = isinstance(sampler, LocalSampler) or follows_edit(sampler, model, prompts[last])
    results.append(_base_result(sampler, shared, n_bytes, warnings))
    known = len(prompts[last]) + len(samples[last].token_ids) - 1  # the last sampled token has not run yet
    reuse = PrefixReuse(known, second.cached_tokens, second.cached_tokens / known)
    results.append(_reuse_result(reuse))
    kind = "local" if isinstance(sampler, LocalSampler) else "sglang"
    return results, SamplerReport(kind, differences, shared, n_bytes, reuse)


async def _sample_two_turns(sampler: AnySampler, prompts: Prompts) -> tuple[dict[str, Sample], Sample]:
    """Return one turn of every adapter, all in one batch; then a second turn of the last one's."""

    def request(role: str, context: tuple[int, ...]) -> SampleRequest:
        # greedy: at improbable tokens float32 itself may be off by the tolerance
        return SampleRequest(context, role, role, NEW_TOKENS, temperature=0.0)

    first = await asyncio.gather(*(sampler.generate(request(role, prompts[role])) for role in prompts))
    samples, last = dict(zip(prompts, first, strict=True)), [*prompts][-1]
    context = prompts[last] + samples[last].token_ids
    second = await sampler.generate(request(last, context + prompts[last][-8:]))
    for role in prompts:
        sampler.release(role)
    return samples, second


def _check_logprobs(
    model: PeftModel, role: str, ids: tuple[int, ...], sample: Sample, tolerance: float
) -> tuple[CheckResult, float]:
    """Compare the sampler's log-probs with the trainer's; return the result and the largest difference."""
    name, n = f"log-probs: {role}", len(sample.token_ids)
    trainer, base = (logprobs(model, ids + sample.token_ids, adapter)[-n:] for adapter in (role, None))
    difference, effect = largest_difference(sample.logprobs, trainer), largest_difference(base, trainer)
    compared = f"sampler and trainer differ by {difference:.1g} (at most {tolerance:.1g})"
    detail = f"{compared}; adapter and base by {effect:.1g}"
    if not difference <= tolerance:
        suggestion = "do not train with this sampler: try sampler.share_base=false, or sampler.kind=local"
        return CheckResult(name, "failed", detail, suggestion), difference
    if effect < LEAST_EFFECT * tolerance:
        inconclusive = "inconclusive: the adapter changes too little here to show that it is served"
        return CheckResult(name, "warning", detail, inconclusive), difference
    return CheckResult(name, "ok", detail), difference


def base_bytes(model: PeftModel) -> int:
    """Return the bytes of the base's weights."""
    weights = model.get_base_model().named_parameters()
    return sum(weight.numel() * weight.itemsize for name, weight in weights if ".lora_" not in name)


def follows_edit(sampler: Scorer, model: PeftModel, ids: tuple[int, ...]) -> bool:
    """Return whether the engine's answer follows an edit of the trainer's base, which is undone."""
    rows = model.get_input_embeddings().weight.data
    before, row = score(sampler, ids, None), rows[ids[0]].clone()
    rows[ids[0]] *= 2
    _synchronize(rows)
    try:
        return largest_difference(score(sampler, ids, None), before) > 0
    finally:
        rows[ids[0]] = row
        _synchronize(rows)


def _synchronize(tensor: torch.Tensor) -> None:
    """Wait until other processes see a written tensor."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _base_result(sampler: AnySampler, shared: bool, n_bytes: int, warnings: Sequence[str]) -> CheckResult:
    size = f"{n_bytes / 1e9:.3g} GB"
    if isinstance(sampler, LocalSampler):
        return CheckResult("base", "ok", f"one copy, {size}: the local sampler runs the trainer's model")
    if shared:
        return CheckResult("base", "ok", f"one copy, {size}: the engine follows an edit of the trainer's weights")
    return CheckResult("base", "warning", f"{warnings[-1]}, {size} each", "it works, with the memory of a second base")


def _reuse_result(reuse: PrefixReuse) -> CheckResult:
    detail = f"{reuse.cached_tokens} of {reuse.reusable_tokens} known tokens of a second turn did not run again"
    if reuse.fraction < LEAST_REUSE:
        return CheckResult(
            "reuse", "warning", detail, "set sampler.radix_cache=true; turns cost more than they need to"
        )
    return CheckResult("reuse", "ok", detail)
