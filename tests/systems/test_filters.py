"""A chain of checks: what each failure leads to, and the verdicts and answers of other roles that checks ask for."""

import asyncio
import re
from functools import partial

import pytest

from aslfast.core import Question, Task
from aslfast.errors import UserError
from aslfast.filters import AnsweredFrom, Check, Verdict, filtered, rule
from aslfast.phase import Play

ASK = 'roles.asker.output=["question", "answer"]', 'roles.asker.prompt="ask: {topic}"'
ROLES = [*ASK, 'roles.policy.prompt="answer: {question}"', 'roles.judge.prompt="judge: {question} {answer}"',
         'roles.judge.output=["verdict"]', 'roles.reader.prompt="read: {passages} then: {question}"',
         'roles.reader.tools=["none"]', 'phases=["tests.support.own.phases:Again"]']  # fmt: skip
ASKED = "<think>so</think><question>Which town?</question><answer>Oslo</answer>"


def play_of(make_context, script, *more, references=()):
    context = make_context(script=script, overrides=[*ROLES, *more])
    return Play(context.start_step().for_group(), Task("t", "asker", "", "Norway", references), 0)


def run(play, *checks, refill=None):
    return asyncio.run(filtered(play, partial(play.act, "asker", topic="Norway"), checks, refill))


def acts(play):
    return play.context.rollout.sampler.sampler.requests


def well_formed(on_fail="drop", **more):
    return Check("well_formed", lambda _, act: act.output is not None, on_fail, **more)


def test_what_passes_goes_on(make_context):
    play = play_of(make_context, [ASKED])
    found = run(play, well_formed(), rule("short", lambda act: act.n_sampled < 999))
    assert (found.output, found.output_answer, found.failed) == ("Which town?", "Oslo", "")
    assert play.settled(found.act, 0.5) == 0.5 and play.context.counters.failed_checks == {}


@pytest.mark.parametrize(("on_fail", "reward"), [("reward", {"well_formed": -0.1}), ("drop", None)])
def test_a_failure_settles_the_act(make_context, on_fail, reward):
    play = play_of(make_context, ["no question<|im_end|>"])
    found = run(play, well_formed(on_fail, reward=-0.1))
    assert found.output is None and found.failed == "well_formed" and play.settled(found.act, 1.0) == reward
    assert play.context.counters.failed_checks == {"well_formed": 1}


def test_the_first_failure_ends_the_chain(make_context):
    play = play_of(make_context, ["no question<|im_end|>"])
    found = run(play, rule("first", lambda _: False, "reward", 0.2), well_formed())
    assert found.failed == "first" and play.context.counters.failed_checks == {"first": 1}


def test_resampling_plays_again_until_one_passes(make_context):
    lucky = iter(["no<|im_end|>", "no<|im_end|>", ASKED])
    play = play_of(make_context, lambda *_: [next(lucky)])
    found = run(play, well_formed("resample", tries=5))
    assert found.output == "Which town?" and play.context.counters.failed_checks == {"well_formed": 2}
    assert len({request.seed for request in acts(play)}) == 3  # other samples, not the same one again


def test_resampling_gives_up_and_drops(make_context):
    play = play_of(make_context, lambda *_: ["no<|im_end|>"])
    found = run(play, well_formed("resample", tries=3))
    assert len(acts(play)) == 3 and found.output is None and play.settled(found.act, 1.0) is None


def test_a_refill_takes_its_place(make_context):
    play = play_of(make_context, ["no<|im_end|>"])
    other = Question("q", "Which river?", ("Elbe",))
    found = run(play, well_formed("refill"), refill=other)
    assert (found.output, found.output_answer) == ("Which river?", "Elbe") and play.settled(found.act, 1.0) is None
    with pytest.raises(UserError, match="the check well_formed refills, and `filtered` was given no question"):
        run(play_of(partial(make_context, "again"), ["no<|im_end|>"]), well_formed("refill"))


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (1.0, False)])
def test_a_verdict_of_another_role(make_context, share, passes):
    said = iter(["correct", "wrong"])

    def script(prompt, seed):
        return [ASKED] if "ask: " in prompt else [f"<verdict>{next(said)}</verdict>"]

    play = play_of(make_context, script)
    found = run(play, Check("judged", Verdict("judge", votes=2, share=share)))
    assert (found.output is not None) == passes
    shown = [play.context.rollout.chat.text(request.token_ids) for request in acts(play)]
    assert sum("judge: Which town? Oslo" in prompt for prompt in shown) == 2


@pytest.mark.parametrize(("answer", "passes"), [("Oslo", True), ("Bergen", False)])
def test_answered_from_what_was_read_among_noise(make_context, answer, passes):
    def script(prompt, seed):
        if "read: " in prompt:
            return [f"<answer>{answer}</answer>"]
        return ['<tool_call>{"name": "search", "arguments": {"query": "Norway"}}</tool_call>', ASKED]

    async def noise(play):
        return [f"noise {i}" for i in range(9)]

    play = play_of(make_context, script)
    found = run(play, Check("solvable", AnsweredFrom("reader", noise, n_noise=2)))
    assert (found.output is not None) == passes
    (shown,) = [p for p in map(play.context.rollout.chat.text, (r.token_ids for r in acts(play))) if "read: " in p]
    assert (
        sorted(re.findall(r"\[\d\]", shown)) == ["[1]", "[2]", "[3]"] and len(set(re.findall(r"noise \d", shown))) == 2
    )


@pytest.mark.parametrize(("gold", "passes"), [("Oslo", True), ("Bergen", False)])
def test_without_an_answer_of_the_author_the_task_has_it(make_context, gold, passes):
    def script(prompt, seed):
        return ["<answer>Oslo</answer>"] if "read: " in prompt else ["<question>Which town?</question>"]

    async def noise(play):
        return []

    play = play_of(make_context, script, 'roles.asker.output=["question"]', references=(gold,))
    assert (run(play, Check("solvable", AnsweredFrom("reader", noise))).output is not None) == passes


def test_a_play_has_a_search_and_chance_of_its_own(make_context):
    play = play_of(make_context, [ASKED])
    assert asyncio.run(play.search("who works where")) and play.rng("a").random() == play.rng("a").random()
    assert play.rng("a").random() != play.rng("b").random()
