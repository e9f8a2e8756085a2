"""How trajectories flow through a round: no barrier, one concurrency limit, shared verdicts, and a tool that fails."""

import asyncio
import dataclasses
import random
from collections import Counter

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

from aslfast.config import load_recipe
from aslfast.config.schema import AdvantageConfig, LossConfig
from aslfast.core import Group, Question, Reward, StopReason, Task, Trajectory
from aslfast.errors import UserError
from aslfast.learner.advantage import lesson
from aslfast.prompts.builder import PromptBuilder
from aslfast.retrieval.client import RemoteIndex
from aslfast.retrieval.retriever import retrieve
from aslfast.rollout.context import max_concurrent
from aslfast.rollout.counters import StepCounters
from aslfast.rollout.priority_semaphore import PrioritySemaphore
from aslfast.rollout.search_tool import SearchTool
from aslfast.rollout.tool_executor import ToolExecutor
from aslfast.rounds.records import TIMED
from aslfast.rounds.round import run_round
from aslfast.systems.asl.generator_phase import question_group
from aslfast.systems.asl.judge import Judge
from aslfast.systems.asl.policy_phase import answer_group
from tests.support.scripted_world import WORLD, actors, gather, hooked, play

PROMPTS = PromptBuilder("compact")
TOPIC = PROMPTS.generator("g1-0", sorted(WORLD.facts)[0], 1)


# --- the gate --------------------------------------------------------------------------------------------------


def enter_all(at_once, depths, cancel=()):
    """The order in which they enter, and the most that were inside together."""
    order, inside, most = [], 0, 0

    async def one(gate, name, depth):
        nonlocal inside, most
        async with gate.acquire(depth):
            order.append(name)
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0.001)
            finally:
                inside -= 1

    async def run():
        gate = PrioritySemaphore(at_once)
        tasks = [asyncio.ensure_future(one(gate, i, depth)) for i, depth in enumerate(depths)]
        await asyncio.sleep(0)
        for i in cancel:
            tasks[i].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    return order, most


def test_the_deepest_first_then_the_oldest():
    assert enter_all(1, [0, 0, 1, 2, 1, 2]) == ([0, 3, 5, 2, 4, 1], 1)


def test_at_most_so_many_inside():
    order, most = enter_all(3, [0] * 20)
    assert order == list(range(20)) and most == 3


def test_whoever_is_cancelled_takes_no_place():
    assert enter_all(1, [0, 0, 0, 0], cancel=[0, 2]) == ([0, 1, 3], 1)
    gate = PrioritySemaphore(1)

    async def cancelled_just_when_its_turn_comes():
        async with gate.acquire(0):
            waiting = asyncio.ensure_future(gate._wait(0))
            await asyncio.sleep(0)
        waiting.cancel()  # it has been given the place, and has not run yet
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(gate._wait(0), 1)

    asyncio.run(cancelled_just_when_its_turn_comes())


def test_a_round_through_a_gate_for_one(make_context):
    """Parents and children share one place without a deadlock, and every metric is that of an open gate."""
    narrow, wide = make_context("narrow", actors()), make_context("wide", actors())
    narrow.limit = PrioritySemaphore(1)
    timing = {*TIMED, "prefix_cache"}
    lines = [
        [{k: v for k, v in line.items() if k not in timing} for line in play(context)] for context in (narrow, wide)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 6


def test_how_many_at_once():
    assert max_concurrent(load_recipe("tiny", ["sampler.max_running_requests=10"])) == 10
    assert max_concurrent(load_recipe("tiny", ["sampler.max_running_requests=10", "sampler.kind=sglang"])) == 15


# --- no barrier ------------------------------------------------------------------------------------------------


def test_a_slow_trajectory_holds_up_nobody(make_context):
    """One question, then one attempt, is stuck: all that does not depend on it is finished meanwhile."""
    context = make_context(script=actors(), overrides=["generator.group_size=4", "generator.rollouts_per_question=4"])
    finished = Counter()
    release = asyncio.Event()
    inner = context.prefix_cache.sampler

    class Stuck:
        async def generate(self, request):
            if "#3@" in request.session and (request.adapter != "grm"):
                await release.wait()
            sample = await inner.generate(request)
            finished[request.adapter] += 1
            return sample

        def release(self, session):
            inner.release(session)

    context.prefix_cache.sampler = Stuck()

    rollouts = context.start_step()

    async def run():
        group = asyncio.ensure_future(question_group(rollouts, TOPIC))
        for _ in range(2000):
            await asyncio.sleep(0)
        before = Counter(finished)
        release.set()
        return before, (await group).groups[0]

    before, group = asyncio.run(run())
    assert before["generator"] == 3 * 2  # the fourth question is stuck; two turns each
    assert before["policy"] == 3 * 3 * 2 and before["grm"] == 3 * (3 + 2)  # verdicts and self checks
    assert len(group.trajectories) == 4


# --- verdicts --------------------------------------------------------------------------------------------------


def test_shared_verdicts_change_nothing_with_a_judge_that_is_sure(make_context):
    """The judge is deterministic (fair=1), so sharing saves requests and nothing else."""

    def lines(name, share):
        context = make_context(name, actors(fair=1.0), [f"grm.share_verdicts={share}", "policy.verdicts_per_answer=3"])
        return play(context), context

    plain, shared = lines("plain", "false"), lines("shared", "true")
    kept = {"reward", "reward_parts", "zero_variance_groups", "trajectories", "grad_norm", "loss"}
    for left, right in zip(plain[0], shared[0], strict=True):
        assert {k: left[k] for k in kept} == {k: right[k] for k in kept}
    assert plain[1].state.pool == shared[1].state.pool
    assert all(line["verdicts_reused"] == 0.0 for line in plain[0])
    for role in ("generator", "policy"):
        assert all(0.05 < line["verdicts_reused"] < 1 for line in shared[0] if line["phase"] == role)
    assert shared[0][-1]["sampled_tokens"] < plain[0][-1]["sampled_tokens"]


def verdict(task, number, output="correct", stop=StopReason.FINISHED):
    return Trajectory(task, (1,), (1,), (-1.0,), (), stop, output if stop is StopReason.FINISHED else None)


def test_what_is_shared():
    """Equal answers when normalised, number by number, of one question; the first spelling is the one that is read."""
    asked = []

    async def sample(task, number):
        asked.append((task.prompt, number))
        await asyncio.sleep(0)
        return verdict(task, number, ("correct", "wrong")[number])

    async def ask(share):
        counters = StepCounters()
        judge = Judge(sample, PROMPTS, share, {}, counters)
        answers = [("who?", "the Aker"), ("who?", "Aker."), ("where?", "Aker"), ("who?", "Oslo")]
        asked_about = [(Question("q", text, ("Aker",)), said) for text, said in answers]
        found = await asyncio.gather(*(judge.verdicts("t", question, said, 2) for question, said in asked_about))
        return found, counters.verdicts, counters.verdicts_reused

    found, *counts = asyncio.run(ask(share=True))
    assert found == [("correct", "wrong")] * 4 and counts == [8, 2] and len(asked) == 6
    assert Counter(prompt for prompt, _ in asked)["judge: who? answer: the Aker"] == 2
    asked.clear()
    found, *counts = asyncio.run(ask(share=False))
    assert found == [("correct", "wrong")] * 4 and counts == [8, 0] and len(asked) == 8


def test_the_statistics_of_shared_verdicts():
    """A judge of chance 0.3 on four equal answers: the same mean, the variance of one draw, and less entropy."""

    def shares(share):
        async def four(seed):
            async def sample(task, number):
                sure = random.Random(f"{task.id} {seed}").random() < 0.3
                return verdict(task, number, "correct" if sure else "wrong")

            judge = Judge(sample, PROMPTS, share, {}, StepCounters())
            who = Question("q", "who?", ("Aker",))
            given = await asyncio.gather(*(judge.verdicts(f"t{i}", who, "Aker", 1) for i in range(4)))
            return sum(v == ("correct",) for v in given) / 4

        async def all_of_them():
            return [await four(seed) for seed in range(4000)]

        return asyncio.run(all_of_them())

    plain, shared = shares(False), shares(True)
    for found, variance in ((plain, 0.3 * 0.7 / 4), (shared, 0.3 * 0.7)):
        mean = sum(found) / len(found)
        assert mean == pytest.approx(0.3, abs=0.03)
        assert sum((x - mean) ** 2 for x in found) / len(found) == pytest.approx(variance, rel=0.1)
    assert set(shared) == {0.0, 1.0} and len(set(plain)) == 5  # entropy 0 against the judge's own indecision


def test_self_checks_are_never_shared(make_context):
    context = make_context(script=actors(), overrides=["grm.share_verdicts=true", "generator.self_checks=4"])
    checks = Counter()

    async def counted(play, task, number):
        if task.id.endswith("-c"):
            checks[task.id] += 1
        return await play()

    hooked(context, counted)
    group = gather(context, question_group, TOPIC)
    assert list(checks.values()) == [4] * sum(t.output is not None for t in group.trajectories)


# --- a tool that fails -----------------------------------------------------------------------------------------


class Flaky(RemoteIndex):
    """A server whose network cuts a share of the requests, by their number."""

    def __init__(self, index, share, seed=0):
        super().__init__("http://127.0.0.1:9", retries=0)
        self.index, self.share, self.rng, self.cut = index, share, random.Random(seed), 0

    def _attempt(self, method, path, body=b""):
        asked = orjson.loads(body)
        if self.rng.random() < self.share:
            self.cut += 1
            raise httpx.ReadTimeout("too slow")
        rows = retrieve(self.index, asked["queries"], asked["topk"])
        return 200, httpx.Headers(), orjson.dumps({"result": [[dataclasses.asdict(p) for p in row] for row in rows]})


def with_tool(context, index, share):
    """The calls one at a time, so that a failure is one trajectory's."""
    flaky = Flaky(index, share)
    pool = ToolExecutor(SearchTool(flaky, 1), threaded=True, deadline_s=5)
    context.rollout = dataclasses.replace(context.rollout, tool=pool)
    return flaky


def test_a_round_with_a_tool_that_fails_now_and_then(make_context, world_index):
    """Every trajectory is either rewarded or lost; the lost ones are written, counted and learnt from by nobody."""
    context = make_context(script=actors(), overrides=["policy.steps=4", "policy.group_size=8"])
    context.limit = PrioritySemaphore(1)
    flaky = with_tool(context, world_index, 0.1)
    lines = play(context)
    sizes = {"generator": 9, "grm": 9, "policy": 32}
    for line in lines:
        assert line["trajectories"] + line["failed"] == sizes[line["phase"]]
    assert sum(line["tool_failed"] for line in lines) == flaky.cut > 10
    assert 0 < sum(line["failed"] for line in lines) <= flaky.cut
    for role in ("generator", "grm", "policy"):
        rows = pq.read_table(context.checkpointer.run.path / "trajectories" / f"round-001-{role}.parquet").to_pylist()
        lost = [row for row in rows if row["reward"] is None]
        assert len(rows) == sum(sizes[role] for line in lines if line["phase"] == role)
        assert len(lost) == sum(line["failed"] for line in lines if line["phase"] == role)
        assert all(row["stop"] == "tool_failed" for row in lost if role != "generator")


def test_a_step_of_which_nothing_is_left_stops_the_run(make_context, world_index):
    context = make_context(script=actors())
    with_tool(context, world_index, 1.0)
    with pytest.raises(UserError, match="round 1: the search tool failed all of a generator step"):
        asyncio.run(run_round(context))


def test_failures_do_not_enter_the_statistics(make_context):
    """Attempts and judges that the tool failed: the entropy and the majority are those of the others."""
    context = make_context(
        script=actors(right=1.0, fair=1.0), overrides=["generator.rollouts_per_question=4", "generator.group_size=1"]
    )
    failing = set()

    async def failed(play, task, number):
        trajectory = await play()
        if (task.id[-2:], number) not in failing:
            return trajectory
        return dataclasses.replace(trajectory, stop=StopReason.TOOL_FAILED, output=None, output_answer=None)

    hooked(context, failed)
    failing |= {("-p", 0), ("-p", 2), ("-c", 1)}
    group = gather(context, question_group, TOPIC)
    (question,) = context.state.pool.values()
    assert len(question.attempts) == 2 and group.rewards[0].parts["entropy"] == 0.0  # all that is left is right
    for everyone in ({("-p", i) for i in range(4)}, {("-c", i) for i in range(2)}):
        failing.clear()
        failing |= everyone
        context.state.pool.clear()
        group = gather(context, question_group, TOPIC)
        assert not group.trajectories and len(group.failed) == 1 and not context.state.pool


def test_a_policy_whose_judge_is_failed_is_left_out(make_context):
    context = make_context(script=actors(right=1.0, fair=1.0), overrides=["policy.verdicts_per_answer=2"])

    async def failed(play, task, number):
        trajectory = await play()
        lost = task.role == "grm" and (task.id.endswith("1-v") or (task.id.endswith("2-v") and number == 0))
        return dataclasses.replace(trajectory, stop=StopReason.TOOL_FAILED, output=None) if lost else trajectory

    hooked(context, failed)
    question = WORLD.questions(random.Random(0), 1)[0]
    task = PROMPTS.policy("p1-0", Question("q", question.question, (question.answer,), question.hops))
    group = gather(context, answer_group, task)
    assert len(group.trajectories) == 3 and len(group.failed) == 1
    assert [r.parts["judge"] for r in group.rewards] == [1.0] * 3  # one verdict of two is enough


def test_lost_trajectories_have_no_advantage():
    task = Task("t", "policy", "p")
    good, bad, lost = (
        verdict(task, 0, stop=s) for s in (StopReason.FINISHED, StopReason.NO_OUTPUT, StopReason.TOOL_FAILED)
    )
    group = Group.of([(good, Reward({"judge": 1.0})), (lost, None), (bad, Reward({"judge": 0.0}))])
    assert group.failed == (lost,)
    taught = lesson([group, Group.of([(lost, None)])], AdvantageConfig(), LossConfig())
    first, second = (signal.advantage for signal in taught.signals)
    assert taught.trajectories == [good, bad] and first == pytest.approx(-second)


def test_what_the_tool_failed_is_no_verdict():
    task = PROMPTS.judge("j", Question("q", "who?"), "Aker")
    silent, gone = (verdict(task, 0, stop=s) for s in (StopReason.NO_OUTPUT, StopReason.TOOL_FAILED))
    judge = Judge(None, PROMPTS, False, {}, StepCounters())
    assert judge.read([verdict(task, 0), silent, gone]) == ("correct", None)
