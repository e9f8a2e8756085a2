"""LocalSampler against a full forward pass of the same model, without a cache, through PEFT's own forward."""

import asyncio
import copy

import pytest
import torch

from aslfast.errors import UserError
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from tests.support.local_sampler_cases import (
    ADAPTERS,
    MIX,
    adapted,
    base,
    bpe_tokenizer,
    check_turns,
    context,
    converse,
    gather,
    run,
)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def model():
    return adapted()


@pytest.mark.parametrize("max_running_requests", [64, 3])
def test_logprobs_equal_a_full_forward_pass(model, tokenizer, max_running_requests):
    sampler = LocalSampler(model, tokenizer, max_running_requests=max_running_requests)

    async def all_sessions():
        return await asyncio.gather(*(converse(sampler, f"s{n}", a, t, n) for n, a, t in MIX))

    model64 = copy.deepcopy(model).double()
    for turns in run(all_sessions()):
        check_turns(model, model64, turns)


@pytest.mark.parametrize("kind", ["qwen2-tied", "llama", "neox"])
def test_other_architectures(kind, tokenizer):
    model = adapted(kind)
    sampler = LocalSampler(model, tokenizer)

    async def all_sessions():
        return await asyncio.gather(*(converse(sampler, f"s{n}", a, t, n) for n, a, t in MIX[:5]))

    model64 = copy.deepcopy(model).double()
    for turns in run(all_sessions()):
        check_turns(model, model64, turns)


def test_a_bare_model(tokenizer):
    model = base()
    turns = run(converse(LocalSampler(model, tokenizer), "s", None, 1.0, 11))
    check_turns(model, copy.deepcopy(model).double(), turns)
    with pytest.raises(UserError, match=r"policy.*loaded: none"):
        run(LocalSampler(model, tokenizer).generate(SampleRequest((1,), "s", "policy", 1)))


def test_the_adapters_differ(model, tokenizer):
    sampler = LocalSampler(model, tokenizer)
    requests = [SampleRequest(context(20, 0), f"s{a}", a, 1, 0.0) for a in (*ADAPTERS, None)]
    logprobs = [sample.logprobs[0] for sample in run(gather(sampler, requests))]
    assert len({round(x, 4) for x in logprobs}) == 4


def test_later_turns_reuse_all_but_what_is_new(model, tokenizer):
    turns = run(converse(LocalSampler(model, tokenizer), "s", "policy", 1.0, 21))
    held = 0
    for request, sample in turns:
        assert sample.cached_tokens == held
        held = len(request.token_ids) + len(sample.token_ids) - 1  # the last sampled token was never run


def test_another_context_reuses_the_common_prefix(model, tokenizer):
    sampler = LocalSampler(model, tokenizer)

    async def turns():
        first = context(30, 0)
        await sampler.generate(SampleRequest(first, "s", "grm", 4))
        changed = await sampler.generate(SampleRequest(first[:13] + context(9, 1), "s", "grm", 1))
        same = await sampler.generate(SampleRequest(first[:13] + context(9, 1), "s", "grm", 1))
        other = await sampler.generate(SampleRequest(first[:13] + context(9, 1), "s", "policy", 1))
        back = await sampler.generate(SampleRequest(first[:13] + context(9, 1), "s", "grm", 1))
        return [s.cached_tokens for s in (changed, same, other, back)]

    assert context(9, 1)[0] != context(30, 0)[13]
    assert run(turns()) == [13, 21, 0, 0]


def test_tokens_do_not_depend_on_the_batch_or_on_evictions(model, tokenizer):
    async def all_sessions(sampler):
        return await asyncio.gather(*(converse(sampler, f"s{n}", a, t, n) for n, a, t in MIX))

    results = [run(all_sessions(LocalSampler(model, tokenizer, max_running_requests=rows))) for rows in (64, 4, 1)]
    alone = [run(converse(LocalSampler(model, tokenizer), f"s{n}", a, t, n)) for n, a, t in MIX]
    for other in (*results[1:], alone):
        for turns, others in zip(results[0], other, strict=True):
            assert [s.token_ids for _, s in turns] == [s.token_ids for _, s in others]
    cached = [[s.cached_tokens for turns in result for _, s in turns[1:]] for result in results]
    assert all(cached[0]) and not any(cached[2])  # with one row every session evicts another


def test_turns_that_end_with_their_first_token(model, tokenizer):
    """Rows move while contexts of different lengths are being run, in several passes."""
    lengths = [(4, 1), (60, 1), (61, 9), (5, 1), (200, 1), (130, 9), (131, 1), (201, 9)]
    requests = [SampleRequest(context(n, n), f"s{n}", "grm", new, seed=n) for n, new in lengths]
    together = run(gather(LocalSampler(model, tokenizer), requests))
    alone = [run(LocalSampler(model, tokenizer).generate(request)) for request in requests]
    assert [s.token_ids for s in together] == [s.token_ids for s in alone]


def test_same_seed_same_tokens_other_seed_other_tokens(model, tokenizer):
    requests = [SampleRequest(context(12, 0), f"s{i}", "policy", 20, seed=seed) for i, seed in enumerate((7, 7, 8))]
    one, two, other = (s.token_ids for s in run(gather(LocalSampler(model, tokenizer), requests)))
    assert one == two != other


@pytest.mark.parametrize("explicit", [True, False])
def test_new_weights_drop_what_is_cached(tokenizer, explicit):
    """Also without flush(): weights written in place are noticed at the next request."""
    model = adapted()
    sampler = LocalSampler(model, tokenizer)
    request = SampleRequest(context(20, 0), "s", "policy", 5, seed=1)
    before = run(sampler.generate(request))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.policy" in name:
                weight.mul_(-1)
    if explicit:
        sampler.flush()
    after = run(sampler.generate(request))
    assert after.cached_tokens == 0 and before.logprobs != after.logprobs
    check_turns(model, copy.deepcopy(model).double(), [(request, after)])


def test_flush_in_the_middle_of_a_turn_changes_nothing_if_weights_have_not(model, tokenizer):
    async def scene(flush):
        sampler = LocalSampler(model, tokenizer)
        requests = [SampleRequest(context(9 + i, i), f"s{i}", "grm", 12, seed=i) for i in range(3)]
        task = asyncio.gather(*map(sampler.generate, requests))
        for _ in range(5):
            await asyncio.sleep(0)
        if flush:
            sampler.flush()
        return [sample.token_ids for sample in await task]

    assert run(scene(True)) == run(scene(False))
