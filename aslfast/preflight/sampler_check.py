"""What the doctor proves about a sampler, on a model with three adapters of random weights.

Log-probs of sampled tokens against the trainer's own forward pass, one copy of the base, and keys and values reused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from peft import PeftModel

from aslfast.config import RunConfig
from aslfast.core import ROLES, Role
from aslfast.errors import UserError
from aslfast.models import lora
from aslfast.preflight.machine import Line
from aslfast.prompts.chat_template import Chat
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.sglang.engine_client import RequestRefused
from aslfast.sampler.sglang.sync_check import (
    PROMPT_TOKENS,
    TOLERANCE,
    check_prompts,
    largest_difference,
    logprobs,
    score,
)
from aslfast.trainer.build import build_sampler, load_base_model
from aslfast.trainer.session import settings_of

Kind = Literal["local", "sglang"]
Prompts = Mapping[str, tuple[int, ...]]
NEW_TOKENS = 16
REUSE = 0.95  # least share of a second turn's known tokens that should come from the cache
EFFECT = 10  # of the tolerance: how far the random adapters must at least be from the base


@dataclass(frozen=True, slots=True)
class Reuse:
    """reusable: tokens of the second turn that ran in the first; cached: those that did not run again."""

    reusable_tokens: int
    cached_tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class Proof:
    """logprob_difference: the largest by role, between sampler and trainer."""

    kind: Kind
    logprob_difference: dict[str, float]
    base_shared: bool
    base_bytes: int
    reuse: Reuse

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_sampler(kind: Kind, target: str) -> tuple[list[Line], Proof | None]:
    """Opens model and sampler, and proves what can be proved; a failed line where one does not open."""
    try:
        return _check(kind, target)
    except (UserError, RequestRefused, OSError) as error:
        detail, _, remedy = str(error).partition("; ")
        return [Line("sampler", "failed", detail, remedy or "check the model folder")], None


def _check(kind: Kind, target: str) -> tuple[list[Line], Proof]:
    config = _config(kind, target)
    model, tokenizer = load_base_model(config)
    model = with_random_adapters(model, config)
    notices: list[str] = []
    with closing(build_sampler(config, model, tokenizer, notify=notices.append)) as sampler:
        return prove(kind, sampler, model, check_prompts(Chat(tokenizer), config.model.prompts, ROLES), notices)


def _config(kind: Kind, target: str) -> RunConfig:
    config = settings_of(target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    sampler = replace(config.sampler, kind=kind, max_running_requests=8, max_context=8 * PROMPT_TOKENS)
    return replace(config, model=replace(config.model, device=device, dtype=dtype), sampler=sampler)


def with_random_adapters(model: Any, config: RunConfig) -> PeftModel:
    """Fresh adapters are the base itself and would prove nothing: B gets random weights, from a fixed seed."""
    model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return model


def prove(kind: Kind, sampler: Any, model: PeftModel, prompts: Prompts, notices: list[str]) -> tuple[list[Line], Proof]:
    """All proofs over an opened sampler and the trainer's model."""
    samples, second = asyncio.run(_two_turns(sampler, prompts))
    tolerance = TOLERANCE[model.get_input_embeddings().weight.dtype]
    lines, differences = [], {}
    for role, sample in samples.items():
        line, differences[role] = _agreement(model, role, prompts[role], sample, tolerance)
        lines.append(line)
    n_bytes, shared = base_bytes(model), kind == "local" or follows(sampler, model, prompts["policy"])
    lines.append(_base_line(kind, shared, n_bytes, notices))
    known = len(prompts["policy"]) + len(samples["policy"].token_ids) - 1  # the last sampled token has not run yet
    reuse = Reuse(known, second.cached_tokens, second.cached_tokens / known)
    lines.append(_reuse_line(reuse))
    return lines, Proof(kind, differences, shared, n_bytes, reuse)


async def _two_turns(sampler: Any, prompts: Prompts) -> tuple[dict[Role, Sample], Sample]:
    """One turn of every role, all in one batch; then a second turn of the policy's."""

    def request(role: Role, context: tuple[int, ...]) -> SampleRequest:
        # greedy: on tokens that the model hardly means, float32 itself may be off by the tolerance
        return SampleRequest(context, role, role, NEW_TOKENS, temperature=0.0)

    first = await asyncio.gather(*(sampler.generate(request(role, prompts[role])) for role in ROLES))
    samples = dict(zip(ROLES, first, strict=True))
    told = prompts["policy"] + samples["policy"].token_ids
    second = await sampler.generate(request("policy", told + prompts["policy"][-8:]))
    for role in ROLES:
        sampler.release(role)
    return samples, second


def _agreement(
    model: PeftModel, role: str, ids: tuple[int, ...], sample: Sample, tolerance: float
) -> tuple[Line, float]:
    """The sampler's log-probs against the trainer's, with the adapter and without it."""
    name, n = f"log-probs: {role}", len(sample.token_ids)
    trainer, base = (logprobs(model, ids + sample.token_ids, who)[-n:] for who in (role, None))
    difference, effect = largest_difference(sample.logprobs, trainer), largest_difference(base, trainer)
    detail = (
        f"sampler and trainer differ by {difference:.1g} (at most {tolerance:.1g}); adapter and base by {effect:.1g}"
    )
    if not difference <= tolerance:
        remedy = "do not train with this sampler: try sampler.share_base=false, or sampler.kind=local"
        return Line(name, "failed", detail, remedy), difference
    if effect < EFFECT * tolerance:
        return Line(name, "warning", detail, "the adapter does too little here to prove that it is served"), difference
    return Line(name, "ok", detail), difference


def base_bytes(model: PeftModel) -> int:
    base: Any = model.get_base_model()
    return sum(weight.numel() * weight.itemsize for name, weight in base.named_parameters() if ".lora_" not in name)


def follows(sampler: Any, model: PeftModel, ids: tuple[int, ...]) -> bool:
    """Whether the engine's answer follows an edit of the trainer's base, which is undone."""
    rows = model.get_input_embeddings().weight.data
    before, row = score(sampler, ids, None), rows[ids[0]].clone()
    rows[ids[0]] *= 2
    _wait(rows)
    try:
        return largest_difference(score(sampler, ids, None), before) > 0
    finally:
        rows[ids[0]] = row
        _wait(rows)


def _wait(tensor: torch.Tensor) -> None:
    """Until other processes see what was written."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _base_line(kind: Kind, shared: bool, n_bytes: int, notices: list[str]) -> Line:
    size = f"{n_bytes / 1e9:.3g} GB"
    if kind == "local":
        return Line("base", "ok", f"one copy, {size}: the local sampler runs the trainer's model")
    if shared:
        return Line("base", "ok", f"one copy, {size}: the engine follows an edit of the trainer's weights")
    return Line("base", "warning", f"{notices[-1]}, {size} each", "it works, and needs the memory of a second base")


def _reuse_line(reuse: Reuse) -> Line:
    detail = f"{reuse.cached_tokens} of {reuse.reusable_tokens} known tokens of a second turn did not run again"
    if reuse.share < REUSE:
        return Line("reuse", "warning", detail, "set sampler.radix_cache=true; turns cost more than they need to")
    return Line("reuse", "ok", detail)
