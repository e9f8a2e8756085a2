"""How turns of the local sampler are drawn and end: by their numbers, stop texts, lengths, aborts and errors."""

import asyncio
import random

import peft
import pytest
import torch
import transformers

from aslfast.errors import UserError
from aslfast.sampler.local.forward_pass import buckets
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.local.sampling import draw_tokens
from aslfast.sampler.protocol import SampleRequest
from tests.support.local_sampler_cases import adapted, base, bpe_tokenizer, context, converse, gather, run


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def model():
    return adapted()


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
    assert LocalSampler(transformers.MistralForCausalLM(mistral), tokenizer).max_context == 8
    linear = transformers.Qwen2Config(**shape, layer_types=["linear_attention"])
    with pytest.raises(UserError, match="linear_attention"):
        LocalSampler(transformers.Qwen2ForCausalLM(linear), tokenizer)
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
