"""The SGLang sampler on a real engine over the lab's base, against the trainer's forward pass and the local sampler.

Tolerance of log-probs: both sides compute in float32, in different orders. The trainer's own error against float64 is
measured in the test (the lab's base is steep: up to 2e-4); the engine's may be at most twice that plus FLOOR, and 99%
of the tokens must be within 1e-4 of the trainer's.
"""

import asyncio
import copy
import importlib.util
import random

import pytest
import torch

from aslfast.core import Question
from aslfast.errors import UserError
from aslfast.lab.world import World
from aslfast.models.lora import parameters_of
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.parsing import STOP_TEXTS
from aslfast.prompts.templates import prompt_text
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.sglang.adapters import adapter_state
from aslfast.sampler.sglang.engine_client import RequestRefused
from tests.support.tiny_models import lab_sampler

TOLERANCE = 1e-4
FLOOR = 2e-5
ROLES_AND_BASE = ("generator", "grm", "policy", None)


def random_ids(n, seed):
    rng = random.Random(seed)
    return tuple(rng.randrange(1000) for _ in range(n))


def prompts(tokenizer, n):
    """What the policy is asked in the lab."""
    chat, system = Chat(tokenizer), prompt_text("compact", "system")
    questions = [q.question for q in World.make(0, "train").questions(random.Random(0), n)]
    asked = [PromptBuilder("compact").policy("t", Question("q", q)).prompt for q in questions]
    return [tuple(chat.prompt_ids(prompt, system)) for prompt in asked]


def contexts(tokenizer, n):
    """The lab's prompts with observations behind them, of very different lengths."""
    passages = [passage.contents for passage in World.make(0, "train").passages()]
    texts = [tokenizer(" ".join(passages[i : i + i % 8]), add_special_tokens=False)["input_ids"] for i in range(n)]
    return [prompt + tuple(text[:300]) for prompt, text in zip(prompts(tokenizer, n), texts, strict=True)]


def all_of(sampler, requests):
    async def gather():
        return await asyncio.gather(*map(sampler.generate, requests))

    return asyncio.run(gather())


def forward_logprobs(model, request, sample):
    """What the trainer's model says of the sampled tokens, scaled by the temperature."""
    ids, start = list(request.token_ids + sample.token_ids), len(request.token_ids)
    with torch.no_grad():
        if request.adapter is None:
            with model.disable_adapter():
                logits = model(input_ids=torch.tensor([ids])).logits[0]
        else:
            model.set_adapter(request.adapter)
            logits = model(input_ids=torch.tensor([ids])).logits[0]
    logprobs = (logits[start - 1 : -1] / (request.temperature or 1.0)).log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]


def differences(model, requests, samples):
    """|the engine's log-prob - the model's| of every sampled token."""
    pairs = zip(requests, samples, strict=True)
    return torch.cat([(forward_logprobs(model, r, s) - torch.tensor(s.logprobs)).abs() for r, s in pairs])


def check_logprobs(model, requests, samples):
    off, exact = differences(model, requests, samples), copy.deepcopy(model).double()
    own = max(
        (forward_logprobs(model, r, s) - forward_logprobs(exact, r, s)).abs().max().item()
        for r, s in zip(requests, samples, strict=True)
    )
    assert differences(exact, requests, samples).max() <= 2 * own + FLOOR
    assert off.quantile(0.99) < TOLERANCE


def test_a_batch_of_three_roles_and_the_base_has_the_trainers_logprobs(engine_lab):
    sampler, model, tokenizer = engine_lab
    requests = [
        SampleRequest(ids, f"s{i}", ROLES_AND_BASE[i % 4], 24, (1.0, 0.74, 0.0)[i % 3], seed=i)
        for i, ids in enumerate(contexts(tokenizer, 48))
    ]
    samples = all_of(sampler, requests)
    assert all(len(sample.token_ids) == 24 or sample.finish == "eos" for sample in samples)
    check_logprobs(model, requests, samples)
    # the roles do differ by more than the tolerance, so that a mix-up would show
    swapped = [SampleRequest(r.token_ids, r.session, "grm", 24, r.temperature) for r in requests[::4]]
    assert differences(model, swapped, samples[::4]).max() > 100 * TOLERANCE


def test_a_score_is_the_trainers_logprob_of_each_token(engine_lab):
    sampler, model, tokenizer = engine_lab
    ids = contexts(tokenizer, 8)[7]
    for role in ROLES_AND_BASE:
        request = SampleRequest(ids[:1], "x", role, 1)
        check_logprobs(model, [request], [Sample(ids[1:], tuple(sampler.score(ids, role)), "length", 0)])


def test_new_weights_are_served_after_a_flush_and_the_old_ones_are_gone(engine_lab):
    sampler, model, tokenizer = engine_lab
    request = SampleRequest(contexts(tokenizer, 4)[3], "swap", "policy", 16)
    version = sampler.version("policy")
    before = all_of(sampler, [request])[0]
    with torch.no_grad():
        for weight in parameters_of(model, "policy"):
            weight.add_(0.005 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    assert differences(model, [request], [before]).max() > 100 * TOLERANCE  # the change is one that shows
    untouched = sampler.version("grm")
    sampler.flush()
    assert (sampler.version("policy"), sampler.version("grm")) == (version + 1, untouched)
    after = all_of(sampler, [request])[0]
    assert after.cached_tokens == 0  # keys and values of other weights are never reused
    check_logprobs(model, [request], [after])
    for name, refused in ((f"policy@{version}", True), (f"policy@{version + 1}", False)):
        call = sampler.running_engine().submit("score", rid=name, token_ids=list(request.token_ids), adapter=name)
        if refused:
            with pytest.raises(RequestRefused):
                call.result()
        else:
            assert len(call.result()["logprobs"]) == len(request.token_ids) - 1


def test_a_flush_without_a_change_pushes_nothing(engine_lab):
    sampler, _, _ = engine_lab
    versions = [sampler.version(role) for role in ROLES_AND_BASE[:3]]
    sampler.flush()
    assert versions == [sampler.version(role) for role in ROLES_AND_BASE[:3]]


def test_the_same_seed_gives_the_same_tokens_whatever_runs_beside_it(engine_lab):
    sampler, _, _ = engine_lab
    context = random_ids(30, 4)
    alone = all_of(sampler, [SampleRequest(context, "alone", "grm", 32, 1.0, seed=11)])[0]
    crowd = [SampleRequest(random_ids(10 + i, i), f"c{i}", ROLES_AND_BASE[i % 4], 40, 1.0, seed=i) for i in range(40)]
    crowded = all_of(sampler, [*crowd[:20], SampleRequest(context, "same", "grm", 32, 1.0, seed=11), *crowd[20:]])[20]
    assert crowded.token_ids == alone.token_ids
    assert max(abs(a - b) for a, b in zip(crowded.logprobs, alone.logprobs, strict=True)) < TOLERANCE
    others = all_of(sampler, [SampleRequest(context, f"o{i}", "grm", 32, 1.0, seed=i) for i in range(8)])
    assert len({other.token_ids for other in others}) == 8


def test_draws_follow_the_distribution(engine_lab):
    """The first token over 1500 seeds: each likely token's frequency within 4.5 standard deviations of its share."""
    sampler, model, _ = engine_lab
    context, n = random_ids(40, 5), 1500
    samples = all_of(sampler, [SampleRequest(context, f"d{i}", "policy", 1, 0.74, seed=i) for i in range(n)])
    model.set_adapter("policy")
    with torch.no_grad():
        share = (model(input_ids=torch.tensor([context])).logits[0, -1] / 0.74).softmax(-1)
    count = torch.bincount(torch.tensor([sample.token_ids[0] for sample in samples]), minlength=len(share))
    deviation = (count - n * share) / (n * share * (1 - share)).sqrt()
    likely = n * share > 5
    assert likely.sum() >= 5 and deviation[likely].abs().max() < 4.5


@pytest.mark.parametrize("stop", [STOP_TEXTS, ("e i", "o"), ("n>\n",), ("tool_call>",), ()])
def test_greedy_turns_end_as_the_local_samplers(engine_lab, stop):
    sampler, model, tokenizer = engine_lab
    local = LocalSampler(model, tokenizer, max_running_requests=64, max_context=512)
    requests = [
        SampleRequest(ids, f"{stop}{i}", ROLES_AND_BASE[i % 4], 40, 0.0, stop)
        for i, ids in enumerate(prompts(tokenizer, 12))
    ]
    mine, theirs = all_of(sampler, requests), all_of(local, requests)
    assert [(s.token_ids, s.finish) for s in mine] == [(s.token_ids, s.finish) for s in theirs]
    if stop == STOP_TEXTS:
        assert {s.finish for s in mine} >= {"stop"}


def test_a_turn_ends_at_its_length_and_at_the_end_of_the_context(engine_lab):
    sampler, _, tokenizer = engine_lab
    tight = SampleRequest(random_ids(505, 6), "tight", None, 40, 1.0)
    short = SampleRequest(random_ids(9, 6), "short", None, 3, 1.0)
    full, cut = all_of(sampler, [tight, short])
    assert (full.finish, cut.finish) == ("length", "length") or "eos" in (full.finish, cut.finish)
    assert len(full.token_ids) <= 512 - 505 and len(cut.token_ids) <= 3
    assert tokenizer.eos_token_id not in full.token_ids[:-1]


def test_the_second_turn_reuses_the_first(engine_lab):
    """All of a session's tokens but the last sampled one, whose keys and values were never computed."""
    sampler, _, _ = engine_lab
    first = SampleRequest(random_ids(150, 7), "turns", "policy", 30, 1.0)
    sample = all_of(sampler, [first])[0]
    reusable = 150 + len(sample.token_ids) - 1
    second = SampleRequest(first.token_ids + sample.token_ids + random_ids(40, 8), "turns", "policy", 8, 1.0)
    assert all_of(sampler, [second])[0].cached_tokens >= 0.95 * reusable
    other_role = SampleRequest(second.token_ids, "other", "grm", 8, 1.0)
    assert all_of(sampler, [other_role])[0].cached_tokens == 0


def test_an_aborted_request_returns_what_it_has(engine_lab):
    sampler, _, _ = engine_lab

    async def abort_when_under_way(how, delay_s):
        turn = asyncio.ensure_future(sampler.generate(SampleRequest(random_ids(20, 9), "end", "grm", 480, 1.0, seed=2)))
        await asyncio.sleep(delay_s)
        how("end")
        return await turn

    whole = all_of(sampler, [SampleRequest(random_ids(20, 9), "whole", "grm", 480, 1.0, seed=2)])[0]
    for how, delay_s in ((sampler.abort, 0.0), (sampler.abort, 0.2), (sampler.release, 0.1)):
        part = asyncio.run(abort_when_under_way(how, delay_s))
        assert part.finish == "abort" and len(part.token_ids) < len(whole.token_ids)
        assert part.token_ids == whole.token_ids[: len(part.token_ids)] and len(part.logprobs) == len(part.token_ids)
    sampler.abort("nobody")
    sampler.release("nobody")
    assert all_of(sampler, [SampleRequest(random_ids(20, 9), "end", "grm", 4, 1.0)])[0].finish != "abort"


def test_a_cancelled_request_frees_its_session(engine_lab):
    sampler, _, _ = engine_lab

    async def cancel():
        turn = asyncio.ensure_future(sampler.generate(SampleRequest(random_ids(20, 9), "gone", None, 400, 1.0)))
        await asyncio.sleep(0.05)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        return await sampler.generate(SampleRequest(random_ids(20, 9), "gone", None, 4, 1.0))

    assert len(asyncio.run(cancel()).token_ids) >= 1


@pytest.mark.parametrize(
    "request_, words",
    [
        (SampleRequest((1, 2), "s", "nobody", 4), "no adapter 'nobody' (loaded: generator, grm, policy)"),
        (SampleRequest((1,) * 512, "s", None, 4), "512 tokens leave no room in a context of 512"),
        (SampleRequest((1, 99999), "s", None, 4), "a token id outside [0, 1020)"),
    ],
)
def test_bad_requests_are_refused_by_name(engine_lab, request_, words):
    with pytest.raises(UserError, match=r".*") as caught:
        all_of(engine_lab[0], [request_])
    assert words in str(caught.value)


def test_a_session_has_one_request_at_a_time(engine_lab):
    twice = [SampleRequest(random_ids(9, 1), "twice", None, 8)] * 2
    with pytest.raises(ValueError, match="a request is running"):
        all_of(engine_lab[0], twice)


def test_an_adapter_that_cannot_be_loaded_stops_the_run(engine_lab):
    sampler, model, _ = engine_lab
    weights, config = adapter_state(model, "policy")
    with pytest.raises(UserError, match=r"adapter wide@0: SGLang cannot load it"):
        sampler.push_adapter("wide", weights, {**config, "r": 64})
    served = {role: sampler.version(role) for role in model.peft_config}
    with pytest.raises(UserError, match="SGLang cannot load it"):
        sampler.push_adapter("policy", weights, {**config, "r": 64})
    assert {role: sampler.version(role) for role in model.peft_config} == served  # a restart has the ones before
    with pytest.raises(UserError, match="no adapter 'wide'"):
        all_of(sampler, [SampleRequest(random_ids(9, 1), "none", "wide", 8)])


def test_the_engines_stand_ins_are_not_the_trainers(engine_lab):
    assert importlib.util.find_spec("sgl_kernel") is None and importlib.util.find_spec("torchvision") is None


def test_without_sglang_the_remedy_is_named(engine_lab, monkeypatch):
    monkeypatch.setattr("aslfast.sampler.sglang.sampler.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"make setup-sglang .* pip install 'aslfast\[sglang\]'"):
        lab_sampler(*engine_lab[1:])


def test_what_a_cpu_does_not_offer_is_refused(engine_lab):
    with pytest.raises(UserError, match=r"sampler.deterministic is true, but SGLang offers it on a GPU alone"):
        lab_sampler(*engine_lab[1:], deterministic=True)
