"""LocalSampler against a full forward pass of the same model, without a cache, through PEFT's own forward.

Tolerance: both sides compute in float32, in different orders (cache, batch, adapters side by side). The reference's own
error against float64 is measured in the test; ours may be at most twice that plus FLOOR, 64 float32 roundings at the
size of these logits (below 8).
"""

import asyncio
import copy
import random

import peft
import pytest
import tokenizers
import torch
import transformers

from aslfast.errors import UserError
from aslfast.sampler.local.forward_pass import buckets
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.local.sampling import draw_tokens
from aslfast.sampler.protocol import SampleRequest

FLOOR = 64 * 8 * torch.finfo(torch.float32).eps / 2
ADAPTERS = ("generator", "grm", "policy")
EOS = "<|end|>"
TEXT = ["the search finds a river and a town", "a question: über 北京 is large", "tool call query stop now"] * 9


@pytest.fixture(scope="module")
def tokenizer():
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=[EOS], initial_alphabet=alphabet)
    bpe.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS)


def base(kind="qwen2", n_vocab=320, seed=0):
    torch.manual_seed(seed)
    shape = {"vocab_size": n_vocab, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.2}
    if kind == "neox":
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape, use_cache=False, eos_token_id=None))
    shape |= {"num_key_value_heads": 2, "eos_token_id": None, "bos_token_id": None}
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, tie_word_embeddings=kind == "qwen2-tied"))


def adapted(kind="qwen2", dropout=0.5):
    """Three adapters of different rank and scaling; B is random, not zero, so that each changes the model."""
    model = base(kind)
    for rank, name in zip((4, 8, 2), ADAPTERS, strict=True):
        config = peft.LoraConfig(r=rank, lora_alpha=12, lora_dropout=dropout, target_modules="all-linear")
        model = peft.get_peft_model(model, config, name) if name == ADAPTERS[0] else model
        if name != ADAPTERS[0]:
            model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05, generator=generator)
    return model


@pytest.fixture(scope="module")
def model():
    return adapted()


def reference(model, adapter, ids, temperature):
    """Log-probs [T, V] of each next token by a full forward pass in evaluation mode, in the model's dtype."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            if adapter is None and hasattr(model, "disable_adapter"):
                with model.disable_adapter():
                    logits = model(input_ids=torch.tensor([ids])).logits[0]
            else:
                if adapter:
                    model.set_adapter(adapter)
                logits = model(input_ids=torch.tensor([ids])).logits[0]
        return (logits / (temperature or 1.0)).log_softmax(-1)
    finally:
        model.train(mode)


def error_bound(model, model64, adapter, ids, temperature):
    own = reference(model, adapter, ids, temperature) - reference(model64, adapter, ids, temperature)
    return 2 * own.abs().max().item() + FLOOR


def context(n, seed):
    rng = random.Random(seed)
    return tuple(rng.randrange(1, 320) for _ in range(n))


def run(coroutine):
    return asyncio.run(coroutine)


async def gather(sampler, requests):
    return await asyncio.gather(*map(sampler.generate, requests))


async def converse(sampler, session, adapter, temperature, n_context, n_turns=3, n_new=7):
    """(request, sample) of each turn of a session; a context is the last one, what was sampled and some new tokens."""
    turns, ids = [], context(n_context, seed=n_context)
    for turn in range(n_turns):
        seed = 1000 * n_context + turn
        request = SampleRequest(ids, session, adapter, n_new + n_context % 3, temperature, seed=seed)
        sample = await sampler.generate(request)
        turns.append((request, sample))
        ids = ids + sample.token_ids + context(3 + 5 * turn + n_context % 4, seed=seed)
        for _ in range(n_context % 3):
            await asyncio.sleep(0)  # turns of different sessions drift apart
    return turns


def check_turns(model, model64, turns):
    for request, sample in turns:
        ids, start = list(request.token_ids + sample.token_ids), len(request.token_ids)
        expected = reference(model, request.adapter, ids, request.temperature)[start - 1 : -1]
        bound = error_bound(model, model64, request.adapter, ids, request.temperature)
        for logprob, row, token in zip(sample.logprobs, expected, sample.token_ids, strict=True):
            assert abs(logprob - row[token].item()) <= bound


MIX = [(n, (*ADAPTERS, None)[i % 4], (0.7, 1.0, 0.0)[i % 3]) for i, n in enumerate((1, 5, 9, 40, 2, 33, 70, 17, 6, 90))]


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


def test_tokens_follow_the_softmax():
    torch.manual_seed(0)
    logits_V, n, rng = torch.randn(7) * 1.5, 20_000, random.Random(3)
    token_B, logprob_B = draw_tokens(logits_V.expand(n, 7), [0.7] * n, [rng.random() for _ in range(n)])
    p_V = (logits_V.double() / 0.7).softmax(-1)
    counts_V = torch.bincount(token_B, minlength=7)
    chi_square = ((counts_V - n * p_V) ** 2 / (n * p_V)).sum().item()
    assert chi_square < 22.46  # 99.9 % of chi-square with 6 degrees of freedom
    torch.testing.assert_close(logprob_B.double(), p_V.log()[token_B], rtol=0, atol=4e-6)


def test_ends_of_the_unit_interval_never_draw_an_impossible_token():
    logits_BV = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, 4)
    token_B, _ = draw_tokens(logits_BV, [1.0, 1.0], [0.0, 1 - 2**-53])
    assert token_B.tolist() == [1, 2]


class Scripted(torch.nn.Module):
    """Adds 1000 to the logit of a given next token, whatever comes in: a real model that says a known text."""

    def __init__(self, head, script):
        super().__init__()
        self.weight, self.script, self.calls = head.weight, script, 0

    def forward(self, hidden):
        logits = torch.nn.functional.linear(hidden, self.weight).clone()
        logits[..., self.script[min(self.calls, len(self.script) - 1)]] += 1000
        self.calls += 1
        return logits


def says(tokenizer, ids, stop=(), max_new_tokens=50):
    model = base()
    model.lm_head = Scripted(model.lm_head, ids)
    return run(LocalSampler(model, tokenizer).generate(SampleRequest((5, 6), "s", None, max_new_tokens, stop=stop)))


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("the search finds</tool_call> and more", ("</tool_call>",), "the search finds</tool_call>"),
        ("a b</x> c</y>", ("</y>", "</x>"), "a b</x>"),
        ("über 北京 is large 漢字 and", ("漢字",), "über 北京 is large 漢字"),
        ("one ! two", ("!",), "one !"),
        ("now\n\nthen", ("\n\n",), "now\n\n"),
    ],
)
def test_a_stop_text_over_several_tokens(tokenizer, text, stop, kept):
    ids = tokenizer.encode(text, add_special_tokens=False)
    sample = says(tokenizer, ids, stop)
    assert sample.finish == "stop"
    assert tokenizer.decode(sample.token_ids) == kept
    assert sample.token_ids == tuple(ids[: len(sample.token_ids)])
    assert not any(s in tokenizer.decode(sample.token_ids[:-1]) for s in stop)


def test_eos_is_kept(tokenizer):
    ids = [*tokenizer.encode("a town", add_special_tokens=False), tokenizer.eos_token_id, 9]
    sample = says(tokenizer, ids, ("never",))
    assert (sample.finish, sample.token_ids) == ("eos", tuple(ids[:-1]))


def test_lengths(model, tokenizer):
    assert says(tokenizer, [40, 41, 42], max_new_tokens=3).finish == "length"
    sampler = LocalSampler(model, tokenizer, max_context=16)
    sample = run(sampler.generate(SampleRequest(context(10, 0), "s", "policy", 50, seed=1)))
    assert (sample.finish, len(sample.token_ids)) == ("length", 6)


def test_abort_release_and_cancel(model, tokenizer):
    sampler = LocalSampler(model, tokenizer, max_running_requests=2)

    async def scene():
        requests = [SampleRequest(context(9 + i, i), f"s{i}", "policy", 60, seed=i) for i in range(5)]
        tasks = [asyncio.create_task(sampler.generate(request)) for request in requests]
        for _ in range(6):
            await asyncio.sleep(0)
        sampler.abort("s0")  # under way
        sampler.abort("s3")  # waits
        sampler.release("s1")
        tasks[4].cancel()
        sampler.abort("nobody")
        sampler.release("nobody")
        samples = await asyncio.gather(*tasks, return_exceptions=True)
        again = [await sampler.generate(SampleRequest(requests[i].token_ids, f"s{i}", "policy", 1)) for i in (2, 1, 4)]
        return samples, again

    (s0, s1, s2, s3, s4), again = run(scene())
    alone = run(LocalSampler(model, tokenizer).generate(SampleRequest(context(9, 0), "x", "policy", 60)))
    assert s0.finish == s1.finish == s3.finish == "abort" and isinstance(s4, asyncio.CancelledError)
    assert 0 < len(s0.token_ids) < 60 and s0.token_ids == alone.token_ids[: len(s0.token_ids)]
    assert s3.token_ids == () and len(s2.token_ids) == 60
    assert [sample.cached_tokens for sample in again] == [10, 0, 0]


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


def test_refusals_name_thing_and_remedy(model, tokenizer):
    sampler = LocalSampler(model, tokenizer, max_context=16)
    refused = [
        (SampleRequest((1,), "s", "critic", 1), UserError, r"session s: no adapter 'critic' \(loaded: generator, grm"),
        (SampleRequest(context(16, 0), "s", None, 1), UserError, r"session s: 16 tokens .* max_context"),
        (SampleRequest((1, 320), "s", None, 1), UserError, r"token id outside \[0, 320\)"),
    ]
    for request, error, match in refused:
        with pytest.raises(error, match=match):
            run(sampler.generate(request))

    async def twice():
        return await gather(sampler, [SampleRequest((1, 2), "s", None, 1)] * 2)

    with pytest.raises(ValueError, match="is running"):
        run(twice())


def test_models_that_would_be_served_wrongly_are_refused(tokenizer):
    shape = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    mistral = transformers.MistralConfig(**shape, num_key_value_heads=1, sliding_window=8)
    with pytest.raises(UserError, match="sliding_window"):
        LocalSampler(transformers.MistralForCausalLM(mistral), tokenizer)
    for change in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}):
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], **change)
        with pytest.raises(UserError):
            LocalSampler(peft.get_peft_model(base(), lora), tokenizer)
    model = adapted()
    model.merge_adapter(["policy"])
    with pytest.raises(UserError, match="merged"):
        LocalSampler(model, tokenizer)


def test_an_error_of_the_forward_pass_reaches_every_coroutine(tokenizer):
    model = base()
    sampler = LocalSampler(model, tokenizer, max_running_requests=2)
    whole, calls = model.model.norm.forward, []

    def fails_once(x):
        calls.append(1)
        if len(calls) == 3:
            raise FloatingPointError("broken")
        return whole(x)

    model.model.norm.forward = fails_once
    requests = [SampleRequest(context(9, i), f"s{i}", None, 5, seed=i) for i in range(4)]

    async def scene():
        return await asyncio.gather(*map(sampler.generate, requests), return_exceptions=True)

    assert [type(error) for error in run(scene())] == [FloatingPointError] * 4
    after, fresh = (run(gather(s, requests)) for s in (sampler, LocalSampler(model, tokenizer)))
    assert [s.token_ids for s in after] == [s.token_ids for s in fresh] and not any(s.cached_tokens for s in after)


def test_the_model_is_left_as_it_was(model, tokenizer):
    model.train()
    model.set_adapter("grm")
    model.base_model.model.model.norm.eval()
    state = [(m.training, getattr(m, "active_adapter", None), "forward" in vars(m)) for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    attention = model.config._attn_implementation
    run(converse(LocalSampler(model, tokenizer), "s", "policy", 1.0, 9))
    assert state == [(m.training, getattr(m, "active_adapter", None), "forward" in vars(m)) for m in model.modules()]
    assert grads == [p.requires_grad for p in model.parameters()]
    assert attention == model.config._attn_implementation
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()  # no inference tensor is left behind


def test_buckets_cover_everything_in_order():
    rng = random.Random(0)
    for n in (0, 1, 50):
        lengths = sorted(rng.randrange(1, 4000) for _ in range(n))
        cuts = buckets(lengths)
        assert [i for low, high in cuts for i in range(low, high)] == list(range(n))
        for low, high in cuts:
            assert lengths[high - 1] <= max(lengths[low] + 16, lengths[low] * 1.25)
            assert high - low == 1 or lengths[high - 1] * (high - low) <= 8192
