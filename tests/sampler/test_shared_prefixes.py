"""The local sampler shares what several requests begin with: fewer tokens are run, and none of the results moves."""

import asyncio
import copy
import random
from dataclasses import replace

import pytest
import torch

from aslfast.sampler.local.forward_pass import ForwardPass
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from tests.support.local_sampler_cases import (
    adapted,
    bpe_tokenizer,
    check_turns,
    context,
    converse,
    gather,
    grouped,
    run,
)

TRUNK = context(150, 0)
QUESTIONS = [TRUNK + context(40, n + 1) for n in range(4)]
GROUPS = grouped(QUESTIONS, "policy", lambda n, i: 12)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def model():
    return adapted()


@pytest.fixture
def forward_tokens(monkeypatch):
    """The tokens of each forward pass, without padding."""
    seen, logits = [], ForwardPass.logits

    def counted(self, first_slot, requests):
        seen.append(sum(len(run.ids) - run.n_kv for run in requests))
        return logits(self, first_slot, requests)

    monkeypatch.setattr(ForwardPass, "logits", counted)
    return seen


def test_a_common_prefix_is_computed_once(model, tokenizer, forward_tokens):
    samples = run(gather(LocalSampler(model, tokenizer), GROUPS))
    apart = len(TRUNK) + sum(len(question) - len(TRUNK) for question in QUESTIONS)
    assert sum(forward_tokens) == apart + len(continued(GROUPS, samples))
    assert sorted(s.cached_tokens for s in samples) == [0, *[150] * 3, *[189] * 20]


def continued(requests, samples):
    """What had to be computed of the sampled tokens: of samples that begin alike, the common part once."""
    pairs = zip(requests, samples, strict=True)
    return {(r.token_ids, s.token_ids[:n]) for r, s in pairs for n in range(1, len(s.token_ids))}


def test_equal_samples_are_one_row_until_they_part(model, tokenizer, forward_tokens):
    """Greedy samples never part; others do, and each is what it is alone."""
    greedy = [SampleRequest(QUESTIONS[0], f"s{i}", "policy", 9, temperature=0.0, seed=i) for i in range(5)]
    samples = run(gather(LocalSampler(model, tokenizer), greedy))
    assert sum(forward_tokens) == len(QUESTIONS[0]) + 8 and len({sample.token_ids for sample in samples}) == 1
    mixed = [replace(request, temperature=0.3 * (i > 2)) for i, request in enumerate(greedy)]
    for request, sample in zip(mixed, run(gather(LocalSampler(model, tokenizer), mixed)), strict=True):
        alone = run(LocalSampler(model, tokenizer).generate(request))
        assert alone.token_ids == sample.token_ids
        assert alone.logprobs == pytest.approx(sample.logprobs, abs=2e-5)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_samples_that_part_wait_for_a_slot(model, tokenizer, slots):
    requests = [SampleRequest(QUESTIONS[0], f"s{i}", "policy", 9, temperature=1.5, seed=i) for i in range(6)]
    sampler = LocalSampler(model, tokenizer, max_running_requests=slots)
    for request, sample in zip(requests, run(gather(sampler, requests)), strict=True):
        alone = run(LocalSampler(model, tokenizer).generate(request))
        assert alone.token_ids == sample.token_ids
        assert alone.logprobs == pytest.approx(sample.logprobs, abs=2e-5)
    assert len(sampler._slots._slots) <= slots


def test_one_of_several_equal_samples_may_be_aborted(model, tokenizer):
    requests = [SampleRequest(QUESTIONS[0], f"s{i}", "policy", 40, temperature=0.0) for i in range(3)]
    sampler = LocalSampler(model, tokenizer)

    async def aborted(name):
        tasks = [asyncio.create_task(sampler.generate(request)) for request in requests]
        while not (sampler._running and len(sampler._running[0].members[0].sampled) > 2):
            await asyncio.sleep(0)
        sampler.abort(name)
        return await asyncio.gather(*tasks)

    whole = run(LocalSampler(model, tokenizer).generate(requests[0])).token_ids
    for i in range(3):
        samples = run(aborted(f"s{i}"))
        assert [sample.finish == "abort" for sample in samples] == [k == i for k in range(3)]
        assert all(sample.token_ids == whole[: len(sample.token_ids)] for sample in samples)
        for request in requests:
            sampler.release(request.session)


def test_tokens_and_logprobs_are_those_without_sharing(model, tokenizer):
    shared = run(gather(LocalSampler(model, tokenizer), GROUPS))
    for request, sample in zip(GROUPS, shared, strict=True):
        alone = run(LocalSampler(model, tokenizer).generate(request))
        assert alone.token_ids == sample.token_ids
        assert alone.logprobs == pytest.approx(sample.logprobs, abs=2e-5)
    check_turns(model, copy.deepcopy(model).double(), list(zip(GROUPS, shared, strict=True)))


def test_without_the_cache_every_context_is_run_whole(model, tokenizer, forward_tokens):
    sampler = LocalSampler(model, tokenizer, radix_cache=False)
    samples = run(gather(sampler, GROUPS)) + run(gather(sampler, GROUPS))
    n_sampled = sum(len(sample.token_ids) for sample in samples)
    whole = 2 * sum(len(request.token_ids) for request in GROUPS)
    assert sum(forward_tokens) == whole + n_sampled - len(samples)
    assert not any(sample.cached_tokens for sample in samples)


def test_adapters_share_nothing(model, tokenizer):
    requests = [SampleRequest(QUESTIONS[0], f"s{a}{i}", a, 2) for a in ("policy", "grm", None) for i in range(2)]
    cached = [sample.cached_tokens for sample in run(gather(LocalSampler(model, tokenizer), requests))]
    assert sorted(cached) == [0] * 3 + [189] * 3


def test_a_released_session_is_shared_until_its_slot_is_needed(model, tokenizer):
    sampler = LocalSampler(model, tokenizer, max_running_requests=2)

    async def cached(question, session):
        sample = await sampler.generate(SampleRequest(question, session, "policy", 3))
        sampler.release(session)
        return sample.cached_tokens

    async def one_after_the_other():
        return [await cached(QUESTIONS[n], f"s{i}") for i, n in enumerate((0, 0, 1, 0))]

    assert run(one_after_the_other()) == [0, 189, 150, 150]  # one slot: that of the first is written over by the third


def test_no_more_slots_than_requests_at_once(model, tokenizer):
    sampler = LocalSampler(model, tokenizer, max_running_requests=32)

    async def waves():
        for wave in range(4):
            requests = [SampleRequest(context(30, 8 * wave + i), f"{wave}-{i}", "grm", 3) for i in range(8)]
            await asyncio.gather(*map(sampler.generate, requests))
            for i in range(8):
                sampler.release(f"{wave}-{i}")

    run(waves())
    assert len(sampler._slots._slots) == 8


def test_short_prefixes_cost_no_pass_more(model, tokenizer, forward_tokens):
    requests = [SampleRequest(context(15, 0) + context(20, n), f"s{n}", "policy", 1) for n in range(9)]
    run(gather(LocalSampler(model, tokenizer), requests))
    assert len(forward_tokens) == 1


@pytest.mark.parametrize("rows", [40, 5, 2, 1])
def test_random_conversations_with_common_beginnings(model, tokenizer, rows):
    """Turns, releases, evictions, aborts and flushes in any order: each result is that of a sampler of its own."""
    rng = random.Random(rows)
    sampler = LocalSampler(model, tokenizer, max_running_requests=rows)

    async def session(n):
        ids, turns = TRUNK[: rng.randrange(1, 150)] + context(rng.randrange(1, 9), n % 5), []
        for turn in range(rng.randrange(1, 4)):
            request = SampleRequest(ids, f"s{n}", rng.choice(("policy", "grm", None)), rng.randrange(1, 8), seed=n)
            if rng.random() < 0.1:
                sampler.flush()
            turns.append((request, await sampler.generate(request)))
            ids = ids + turns[-1][1].token_ids + context(rng.randrange(20), turn)
        if rng.random() < 0.7:
            sampler.release(f"s{n}")
        return turns

    async def everything():
        return [turns for _ in range(3) for turns in await asyncio.gather(*(session(n) for n in range(12)))]

    for turns in run(everything()):
        for request, sample in turns:
            alone = run(LocalSampler(model, tokenizer).generate(request))
            assert alone.token_ids == sample.token_ids
            assert alone.logprobs == pytest.approx(sample.logprobs, abs=2e-5)


def test_conversations_go_on_beside_others(model, tokenizer):
    """What a follower copied from a running slot stays right while both write on."""
    sampler = LocalSampler(model, tokenizer)

    async def together():
        return await asyncio.gather(*(converse(sampler, f"s{n}", "policy", 1.0, 7) for n in range(6)))

    model64 = copy.deepcopy(model).double()
    for turns in run(together()):
        check_turns(model, model64, turns)
    assert torch.isfinite(sampler._forward.cache.kv_L2RHSD).all()
