"""Reusable against reused tokens: counted right, whoever shares a beginning with whom, and within bounds."""

import asyncio
import random

import pytest

from aslfast.core import Question
from aslfast.prompts.builder import PromptBuilder
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.prefix_cache_stats import PrefixCacheCounts, PrefixCacheMeter
from aslfast.sampler.prefix_index import PrefixIndex
from aslfast.sampler.protocol import Sample, SampleRequest


class Echo:
    """Samples fixed tokens and says that so many context tokens were cached; slow sessions end when told to."""

    def __init__(self, sampled=(7, 8, 9), cached=0):
        self.sampled, self.cached, self.slow = sampled, cached, {}

    async def generate(self, request):
        if request.session in self.slow:
            await self.slow[request.session].wait()
        return Sample(self.sampled, (0.0,) * len(self.sampled), "length", self.cached)


def ask(meter, session, ids, adapter="policy"):
    return meter.generate(SampleRequest(tuple(ids), session, adapter, 3))


def play(*requests, version=None, cached=0):
    """The totals after each request, one at a time."""
    meter = PrefixCacheMeter(Echo(cached=cached), version or {})

    async def all_of_them():
        found = []
        for request in requests:
            await ask(meter, *request)
            found.append(meter.take())
        return found

    return asyncio.run(all_of_them())


def test_a_sessions_own_turns():
    """Of the second context all is reusable but the last sampled token, never read, and what came after it."""
    first, second = play(("s", [1, 2, 3]), ("s", [1, 2, 3, 7, 8, 9, 50, 51]), cached=4)
    assert first == {"policy": PrefixCacheCounts(1, 3, 0, 0, 4)}
    assert second == {"policy": PrefixCacheCounts(1, 8, 5, 5, 4, 1)}


def test_other_sessions_with_a_common_beginning():
    *_, last = play(("a", [1, 2, 3, 4]), ("b", [1, 2, 9]), ("c", [5, 5]), ("d", [1, 2, 3, 6, 6]))
    assert last == {"policy": PrefixCacheCounts(1, 5, 3, 0, 0, 3)}


def test_the_last_token_of_a_context_is_computed_in_any_case():
    _, last = play(("a", [1, 2, 3]), ("b", [1, 2, 3]))
    assert last["policy"].reusable == 2


def test_nothing_is_reusable_across_adapters_or_versions():
    _, other = play(("a", [1, 2, 3]), ("b", [1, 2, 3], "grm"))
    assert other["grm"].reusable == 0
    version = {"policy": 0}
    meter = PrefixCacheMeter(Echo(), version)

    async def after_a_step():
        await ask(meter, "a", [1, 2, 3])
        version["policy"] = 1
        await ask(meter, "b", [1, 2, 3])
        await ask(meter, "c", [1, 2, 3])
        return meter.take()

    assert asyncio.run(after_a_step())["policy"].reusable == 2  # c's, of b


def test_a_request_under_way_gives_nothing_yet():
    sampler = Echo()

    async def side_by_side():
        sampler.slow["a"] = asyncio.Event()
        meter = PrefixCacheMeter(sampler)
        first = asyncio.ensure_future(ask(meter, "a", [1, 2, 3]))
        await asyncio.sleep(0)
        await ask(meter, "b", [1, 2, 3])
        sampler.slow["a"].set()
        await first
        return meter.take()

    assert asyncio.run(side_by_side())["policy"].reusable == 0


def test_the_longest_common_beginning_against_a_plain_search():
    rng = random.Random(0)
    prefixes, held = PrefixIndex(), {}

    def shared(left, right):
        return next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )

    for i in range(600):
        wanted = [rng.choice((0, 1, 255, 256, 70000)) for _ in range(rng.randrange(1, 9))]
        session = f"s{rng.randrange(40)}"
        best = max((shared(wanted, other) for other in held.values()), default=0)
        length, holder = prefixes.longest(wanted)
        assert length == best and (holder is None or shared(wanted, held[holder]) == best), i
        assert prefixes.own(session, wanted) == shared(wanted, held.get(session, []))
        held[session] = wanted
        prefixes.put(session, wanted)


def test_memory_is_bounded_and_the_oldest_go_first():
    prefixes = PrefixIndex(max_tokens=30)
    for i in range(100):
        prefixes.put(f"s{i}", [i] * 10)
    assert [prefixes.longest([i] * 10)[0] for i in (96, 97, 98, 99)] == [0, 10, 10, 10]
    assert len(prefixes._sorted) == len(prefixes._of_key) == 3


def test_the_meter_passes_everything_on(model, tokenizer):
    """What `flush` and `close` do to the sampler inside shows in its cache, `abort` and `release` in its answer."""
    meter = PrefixCacheMeter(LocalSampler(model, tokenizer, max_running_requests=2, max_context=256))

    async def cached_after(act):
        await ask(meter, "s", range(3, 23))
        act()
        return (await ask(meter, "s", range(3, 23))).cached_tokens

    async def aborted(end):
        turn = asyncio.ensure_future(ask(meter, "s", range(3, 23)))
        await asyncio.sleep(0)
        end("s")
        return (await turn).finish

    meter.start()
    assert asyncio.run(cached_after(lambda: None)) == 19
    assert [asyncio.run(cached_after(act)) for act in (meter.flush, meter.close)] == [0] * 2
    assert [asyncio.run(aborted(end)) for end in (meter.abort, meter.release)] == ["abort"] * 2


@pytest.mark.parametrize("rows, all_of_it", [(4, True), (2, False)])
def test_the_local_sampler_reuses_a_sessions_turns_while_it_has_rows(model, tokenizer, rows, all_of_it):
    meter = PrefixCacheMeter(LocalSampler(model, tokenizer, max_running_requests=rows, max_context=256))

    async def converse(session):
        ids = [3 + ord(session)] * 9
        for turn in range(3):
            sample = await meter.generate(SampleRequest(tuple(ids), session, "policy", 5, seed=turn))
            ids += [*sample.token_ids, 40, 41, 42]

    async def together():
        await asyncio.gather(*map(converse, "abcd"))
        return meter.take()["policy"]

    reuse = asyncio.run(together())
    assert reuse.requests == 12 and reuse.reusable_own > 100
    assert (reuse.reused == reuse.reusable_own) is all_of_it and reuse.reused <= reuse.reusable_own


def test_prompts_begin_with_what_their_role_shares():
    """All tasks share the instructions, the attempts at one question share the question; only then they differ."""

    def common(left, right):
        return next(i for i, (a, b) in enumerate(zip(left.prompt, right.prompt, strict=False)) if a != b)

    prompts = PromptBuilder("full")
    ask = [prompts.policy("t", Question("q", f"{which} river is it?")) for which in ("Which", "What")]
    topics = [prompts.generator("t", topic, 2) for topic in ("Oslo", "Aker")]
    judge = [prompts.judge("t", Question("q", "Which river is it?"), answer) for answer in ("Aker", "Oslo")]
    for left, right in (ask, topics, judge):
        assert common(left, right) >= len(left.prompt) - 20
    assert judge[0].prompt[: common(*judge)].count("Which river is it?") == 1
