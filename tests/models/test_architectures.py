"""Every architecture that can be made tiny: local sampler, learner and the model's own forward pass give the same
log-probs, or the model is refused in one line.

What the checks before a run accept is compared here again, on other and longer contexts, with a plain forward pass:
they must refuse whatever they cannot vouch for. Tolerance: FLOOR of the local sampler's tests.
"""

import asyncio

import pytest
import torch

from aslfast.config.schema import LearnerConfig, LossConfig, SamplerConfig
from aslfast.core import StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.batch import make_batch
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.sampler.protocol import SampleRequest
from aslfast.trainer.forward_check import check_learner, open_local_sampler, own_logprobs, probe_ids
from tests.support.local_sampler_cases import FLOOR
from tests.support.tiny_architectures import ARCHITECTURES, VOCABULARY, tiny_architecture
from tests.support.tiny_models import stir

TEMPERATURE = 0.7
# what people train; the rest may be refused
TRAINED = [
    "apertus", "arcee", "bitnet", "cohere", "cohere2", "cohere2_moe", "dots1", "ernie4_5", "exaone4", "gemma",
    "gemma3_text", "glm", "glm4", "glm4_moe", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "hyperclovax",
    "llama", "minimax_m2", "ministral", "mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3",
    "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
]  # fmt: skip


def ids(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, VOCABULARY, (n,), generator=generator).tolist())


def assert_refused(kind, error):
    text = str(error)
    assert kind not in TRAINED, text
    assert "\n" not in text and "; use " in text and len(text) < 400, text


async def two_turns(sampler, adapters):
    """[(context, sampled ids, log-probs, adapter)] of ragged sessions in one batch, and of their second turns."""
    contexts, found = [ids(n, n) for n in (31, 6, 19)], []
    for turn in range(2):
        requests = [
            SampleRequest(context, f"s{i}", adapters[i % len(adapters)], 4 + i, TEMPERATURE, seed=i + turn)
            for i, context in enumerate(contexts)
        ]
        samples = await asyncio.gather(*map(sampler.generate, requests))
        found += [(r.token_ids, s.token_ids, s.logprobs, r.adapter) for r, s in zip(requests, samples, strict=True)]
        contexts = [context + sampled + ids(3 + i, i) for i, (context, sampled, _, _) in enumerate(found[-3:])]
    return found


def assert_sampler_agrees(model, tokenizer, adapters):
    sampler = open_local_sampler(model, tokenizer, SamplerConfig(max_running_requests=4, max_context=64), "compact")
    for context, sampled, logprobs, adapter in asyncio.run(two_turns(sampler, adapters)):
        own = own_logprobs(model, context + sampled, adapter is not None, TEMPERATURE)[len(context) - 1 :]
        assert (torch.tensor(logprobs) - own).abs().max() <= FLOOR / TEMPERATURE


def assert_learner_agrees(model, tokenizer):
    learner = Learner(model, LearnerConfig(), LossConfig(), TEMPERATURE, lora.ROLES)
    check_learner(learner, probe_ids(model, tokenizer, "compact"))
    streams = [ids(22, 0) + ids(n, n) for n in (4, 30, 11)] + [ids(7, 7)]
    flags = [tuple(int(i > 3) for i in range(len(stream))) for stream in streams]
    trajectories = [
        Trajectory(Task("t", "policy", ""), stream, flag, (0.0,) * len(stream), (), StopReason.NO_OUTPUT)
        for stream, flag in zip(streams, flags, strict=True)
    ]
    own = torch.cat([own_logprobs(model, stream, True, TEMPERATURE)[3:] for stream in streams])
    assert (learner.logprobs(make_batch(trajectories, [1.0] * 4)) - own).abs().max() <= FLOOR / TEMPERATURE


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_all_paths_agree_or_refuse(kind, tokenizer):
    model = tiny_architecture(kind)
    try:
        assert_sampler_agrees(model, tokenizer, [None])
        sampled = True
    except UserError as error:
        assert_refused(kind, error)
        sampled = False
    try:
        adapted = lora.add_adapters(model, 2, 4.0, seed=0)
        stir(adapted)
        assert_learner_agrees(adapted, tokenizer)
    except UserError as error:
        assert_refused(kind, error)
        return
    if sampled:
        adapted.set_adapter("grm")
        assert_sampler_agrees(adapted, tokenizer, [None, "grm"])


def test_enough_architectures_are_tried():
    assert len(ARCHITECTURES) >= 100 and set(TRAINED) <= set(ARCHITECTURES) and len(TRAINED) >= 35
