"""Whether learner and local sampler compute what the model's own forward pass does, on one prompt before any work.

Both run the model in ways of their own: packed, or from a cache, with attention and head replaced. An architecture that
is more than what they replace would give other log-probs without a word; it is refused here instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aslfast.config.schema import SamplerConfig
from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.batch import make_batch
from aslfast.learner.learner import Learner
from aslfast.models.output_head import logits_not_finite
from aslfast.prompts.chat_template import Chat
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.sglang.sync_check import PROMPT_TOKENS, TOLERANCE, check_prompts

SHARED_TOKENS = 24  # of two trajectories, so that a shared prefix is part of the check
PROBE_ROOM = 16  # tokens that the check of the local sampler adds to the probe, at most
USUAL_LOGPROB = 16.0  # nats: larger ones carry a proportionally larger rounding error

LOCAL, LEARNER = "the local sampler", "the learner"

Ids = tuple[int, ...]


def probe_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: str) -> Ids:
    """Return the end of the policy's prompt in this prompt set: text that the model knows, where rounding is least.

    Of ids that the model has not, its first ones take the place.
    """
    embeddings: Any = model.get_input_embeddings()
    n_vocab = len(embeddings.weight)
    ids = check_prompts(Chat(tokenizer), prompts, ("policy",))["policy"]
    return (*(i for i in ids if 0 <= i < n_vocab), *range(n_vocab))[:PROMPT_TOKENS]


def open_local_sampler(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, config: SamplerConfig, prompts: str
) -> LocalSampler:
    """Return the local sampler over a model that it samples right. Raise UserError for any other."""
    with _one_line(LOCAL, model):
        sampler = LocalSampler(
            model, tokenizer, max_running_requests=config.max_running_requests, max_context=config.max_context,
            radix_cache=config.radix_cache,
        )  # fmt: skip
    ids = probe_ids(model, tokenizer, prompts)
    check_local_sampler(sampler, model, ids[: max(2, sampler.max_context - PROBE_ROOM)])
    return sampler


def check_local_sampler(sampler: LocalSampler, model: PreTrainedModel | PeftModel, ids: Ids) -> None:
    """Raise UserError unless the sampler's log-probs are the model's: prefill, decoding and a second turn from cache.

    The base, and the active adapter if there is one, in one padded batch.
    """
    adapters = [None, str(model.active_adapter)] if isinstance(model, PeftModel) else [None, None]
    with _one_line(LOCAL, model):
        turns = asyncio.run(_two_turns(sampler, ids, adapters))
        for i, adapter in enumerate(adapters):
            last, end = turns[-len(adapters) :][i]  # its context holds the session's first turn
            own_T = own_logprobs(model, last.token_ids + end.token_ids, adapter is not None)
            for request, sample in turns[i :: len(adapters)]:
                start = len(request.token_ids) - 1
                found_T = torch.tensor(sample.logprobs)
                _compare(LOCAL, model, found_T, own_T[start : start + len(found_T)])
    sampler.flush()  # as before: no slot, no memory


async def _two_turns(
    sampler: LocalSampler, ids: Ids, adapters: Sequence[str | None]
) -> list[tuple[SampleRequest, Sample]]:
    """Sample greedily from the probe and half of it; then go on from what each has, and more of the probe."""
    contexts, played = [ids[: max(1, len(ids) // 2)], ids[: max(1, len(ids) // 4)]], []
    for _ in range(2):
        requests = [
            SampleRequest(context, f"probe-{i}", adapter, 2, temperature=0.0)
            for i, (context, adapter) in enumerate(zip(contexts, adapters, strict=True))
        ]
        samples = await asyncio.gather(*map(sampler.generate, requests))
        played += list(zip(requests, samples, strict=True))
        contexts = [r.token_ids + s.token_ids + ids[-3 - i :] for i, (r, s) in enumerate(played[-2:])]
    for i in range(2):
        sampler.release(f"probe-{i}")
    return played


def check_learner(learner: Learner, ids: Ids) -> float:
    """Return the largest difference between the learner's log-probs of the probe and those of the model's own forward
    pass, in nats, with the active adapter. Raise UserError beyond the tolerance.
    """
    model, temperature = learner.model, learner.temperature
    streams = [ids, ids[:SHARED_TOKENS] + ids[:2]]
    batch = make_batch([_trajectory(stream) for stream in streams], [0.0, 0.0]).to(model.device)
    with _one_line(LEARNER, model), torch.no_grad():
        own_T = torch.cat([own_logprobs(model, stream, True, temperature) for stream in streams])
        return _compare(LEARNER, model, learner.logprobs(batch), own_T)


def _trajectory(ids: Ids) -> Trajectory:
    """Return a trajectory in which all tokens but the first were sampled."""
    mask = (0, *[1] * (len(ids) - 1))
    return Trajectory(Task("probe", "policy", ""), ids, mask, (0.0,) * len(ids), (), StopReason.NO_OUTPUT)


def own_logprobs(
    model: PreTrainedModel | PeftModel, ids: Ids, adapted: bool = True, temperature: float = 1.0
) -> Tensor:
    """Return the log-probs of all tokens but the first [tokens - 1], float32, by the model's own forward pass.

    adapted: with the active adapter, else the base alone. Raise UserError where its logits are not finite.
    """
    if isinstance(model, PeftModel) and not adapted:
        with model.disable_adapter():
            return own_logprobs(model, ids, True, temperature)
    ids_1T = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    if not bool((logits_TV < torch.inf).all()):  # -inf is a masked token, NaN is less than nothing
        raise logits_not_finite(model.get_base_model() if isinstance(model, PeftModel) else model)
    return (logits_TV / temperature).log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0]


def _compare(part: str, model: Any, found_T: Tensor, own_T: Tensor) -> float:
    """Return the largest difference. Raise UserError beyond the dtype's tolerance, scaled to the log-probs' size."""
    size = max(1.0, float(own_T.abs().max()) / USUAL_LOGPROB)
    tolerance = TOLERANCE[model.get_input_embeddings().weight.dtype] * size
    difference = float((found_T.to(own_T) - own_T).abs().max())
    if not difference <= tolerance:
        what = f"{part}'s log-probs differ from the model's own by {difference:.2g} nats (at most {tolerance:.1g})"
        raise UserError(f"{_name(model)}: {what}: it computes more than {part} does; {_remedy(part)}")
    return difference


@contextmanager
def _one_line(part: str, model: Any) -> Iterator[None]:
    """Turn whatever an architecture that was not thought of raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # shapes, missing settings, indices: transformers' models differ in all
        what = f"{part} cannot run this architecture ({_reason(model, error)})"
        raise UserError(f"{_name(model)}: {what}; {_remedy(part)}") from error


def _reason(model: Any, error: Exception) -> str:
    """Return what is odd about the architecture, where that is known."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(base.config, "kv_lora_rank", None):
        return "its keys and values are compressed: MLA"
    if not getattr(base, "_supports_attention_backend", False):
        return "its attention is an implementation of its own"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def _name(model: Any) -> str:
    kind = model.config.model_type
    return f"{model.name_or_path} ({kind})" if getattr(model, "name_or_path", "") else kind


def _remedy(part: str) -> str:
    return "use another base" if part == LEARNER else "use sampler.kind=sglang, or another base"
