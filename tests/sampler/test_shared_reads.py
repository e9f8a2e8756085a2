"""Decode steps that read common prefixes once: the attention itself, the groups, and whole turns of a wide model."""

import asyncio
import copy
import random

import pytest
import torch
import transformers

from aslfast.sampler.local import forward_pass
from aslfast.sampler.local.running_request import Row, RunningRequest
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.local.shared_reads import SharedGroup, SharedReads, groups_of, saves_enough
from aslfast.sampler.protocol import SampleRequest
from aslfast.sampler.stop_strings import StopFinder, TokenPieces
from tests.support.local_sampler_cases import bpe_tokenizer, check_turns, context, gather, grouped, run

TRUNK = context(60, 0)
QUESTIONS = [TRUNK + context(40 + 7 * n, n + 1) for n in range(4)]
GROUPS = grouped(QUESTIONS, None, lambda n, i: 5 + (n * i) % 20)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def model():
    """Wide enough for shared reads, with an odd number of heads."""
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 288, "num_hidden_layers": 2, "num_attention_heads": 9, "head_dim": 32}
    shape |= {"num_key_value_heads": 3, "intermediate_size": 96, "max_position_embeddings": 512}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**shape, initializer_range=0.2, eos_token_id=None, bos_token_id=None)
    )


@pytest.fixture
def steps(monkeypatch):
    """The number of rows of each decode step with shared reads."""
    seen, prepare = [], SharedReads.prepare

    def counted(self, kv):
        seen.append(len(self.runs))
        return prepare(self, kv)

    monkeypatch.setattr(SharedReads, "prepare", counted)
    return seen


def running(ids, adapter=None, n_kv=None):
    request = SampleRequest(tuple(ids), str(random.random()), adapter, 1)
    stops = StopFinder((), TokenPieces(bpe_tokenizer()))
    one = RunningRequest(request, None, stops, list(ids), random.Random(0))  # type: ignore[arg-type]
    return Row([one], len(ids) - 1 if n_kv is None else n_kv)


def test_groups_share_at_least_half():
    a, b = [1] * 20, [2] * 20
    runs = [running(ids) for ids in ([*a, 3, 4], [*b, 3], [*a, 5], a[:9] + [7] * 20, [*b, 4, 4, 4], [*a, 3, 9])]
    assert groups_of(runs) == [SharedGroup(20, (0, 5, 2)), SharedGroup(28, (3,)), SharedGroup(20, (1, 4))]
    assert saves_enough(groups_of(runs), runs)
    assert not saves_enough([SharedGroup(run.n_kv, (i,)) for i, run in enumerate(runs)], runs)


def test_adapters_are_groups_of_their_own():
    runs = [running([1] * 20, adapter) for adapter in ("policy", None, "grm", "policy")]
    assert sorted(group.rows for group in groups_of(runs)) == [(0, 3), (1,), (2,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_tail", [1, 7, 90])
def test_attention_is_that_over_the_whole_context(dtype, n_tail):
    """Against softmax over the whole, in float64; the error is at most twice that of one softmax, plus 64 roundings."""
    torch.manual_seed(1)
    n_shared, n_heads, head_dim, sizes = 53, 3, 16, (1, 4, 2)
    prefixes = [[n + 1] * n_shared for n in range(len(sizes))]
    runs = [
        running(prefixes[n] + [9 + i] * (1 + (n_tail - 1) * (i + 1) // size))
        for n, size in enumerate(sizes)
        for i in range(size)
    ]
    random.Random(0).shuffle(runs)
    n_positions = max(len(ran.ids) for ran in runs)
    kv = torch.randn(1, 2, len(runs), n_heads, n_positions, head_dim, dtype=torch.float64) * 2
    groups = groups_of(runs)
    for group in groups:
        kv[:, :, list(group.rows), :, : group.n_shared] = kv[:, :, group.rows[0], None, :, : group.n_shared].clone()
    query = torch.randn(len(runs), 2 * n_heads, 1, head_dim, dtype=torch.float64)
    reads = SharedReads(kv.to(dtype), runs, groups)
    mask = reads.prepare(kv.to(dtype))
    new = torch.stack([kv[0, :, row, :, ran.n_kv] for row, ran in enumerate(runs)], 1)[:, :, :, None].to(dtype)
    key, value = reads.update(new[0], new[1], 0)
    found = reads.attention(query.to(dtype), key, value, mask, 0.3)[:, 0]
    exact, plain = (whole(query, kv, runs, to) for to in (torch.float64, dtype))
    bound = 2 * (plain - exact).abs().max() + 64 * torch.finfo(dtype).eps
    assert (found - exact).abs().max() <= bound


def whole(query, kv, runs, dtype):
    rows = []
    for row, ran in enumerate(runs):
        key, value = (side.repeat_interleave(2, 0).to(dtype) for side in kv[0, :, row, :, : len(ran.ids)])
        rows.append((query[row].to(dtype) @ key.transpose(1, 2) * 0.3).softmax(-1) @ value)
    return torch.stack(rows)[:, :, 0]


def test_tokens_and_logprobs_are_those_without_sharing(model, tokenizer, steps):
    shared = run(gather(LocalSampler(model, tokenizer), GROUPS))
    assert max(steps) > 12
    del steps[:]
    apart = run(gather(LocalSampler(model, tokenizer, radix_cache=False), GROUPS))
    assert steps == []
    assert [sample.token_ids for sample in shared] == [sample.token_ids for sample in apart]
    check_turns(model, copy.deepcopy(model).double(), list(zip(GROUPS, shared, strict=True)))


def test_weights_of_16_bit_are_attended_in_float32(model, tokenizer, steps):
    """Against the same weights in float64, as far off as transformers' own bfloat16 at most twice."""
    narrow = copy.deepcopy(model).bfloat16()
    sampler = LocalSampler(narrow, tokenizer)
    samples = run(gather(sampler, GROUPS))
    assert max(steps) > 12 and sampler._slots.cache.kv_L2RHSD.dtype == torch.float32
    check_turns(narrow, copy.deepcopy(narrow).double(), list(zip(GROUPS, samples, strict=True)))


def test_a_narrow_model_reads_as_before(model, tokenizer, steps, monkeypatch):
    monkeypatch.setattr(forward_pass, "MIN_QUERY_WIDTH", 9 * 32 + 1)
    run(gather(LocalSampler(model, tokenizer), GROUPS))
    assert steps == []


@pytest.mark.parametrize("rows", [40, 9])
def test_random_conversations(model, tokenizer, steps, rows):
    """Turns, releases, aborts and flushes in any order: each result is that of a sampler of its own."""
    rng = random.Random(rows)
    sampler = LocalSampler(model, tokenizer, max_running_requests=rows)

    async def session(n):
        ids, turns = QUESTIONS[n % 4], []
        for turn in range(rng.randrange(1, 4)):
            request = SampleRequest(ids, f"s{n}", None, rng.randrange(1, 30), seed=n + turn)
            if rng.random() < 0.1:
                sampler.flush()
            if rng.random() < 0.1:
                sampler.abort(f"s{rng.randrange(12)}")
            turns.append((request, await sampler.generate(request)))
            ids = ids + turns[-1][1].token_ids + context(rng.randrange(20), turn)
        if rng.random() < 0.5:
            sampler.release(f"s{n}")
        return turns

    async def everything():
        return [turns for _ in range(2) for turns in await asyncio.gather(*(session(n) for n in range(12)))]

    played = run(everything())
    assert len(steps) > 20
    for turns in played:
        for request, sample in turns:
            alone = run(LocalSampler(model, tokenizer, radix_cache=False).generate(request))
            assert alone.token_ids[: len(sample.token_ids)] == sample.token_ids
            assert alone.logprobs[: len(sample.logprobs)] == pytest.approx(sample.logprobs, abs=2e-4)


def test_memory_is_freed_when_the_weights_change_and_when_nothing_runs(model, tokenizer, steps):
    sampler = LocalSampler(model, tokenizer)

    async def flushed_while_running():
        task = asyncio.gather(*map(sampler.generate, GROUPS))
        while not steps:
            await asyncio.sleep(0)
        assert sampler._forward.cache.shared is not None
        sampler.flush()
        assert sampler._forward.cache.shared is None
        await task

    run(flushed_while_running())
    assert sampler._forward.cache.shared is None
