"""A round: what enters the pool, where labels come from, which tasks are set, and what a run writes.

The actors play a lab world with known odds, over a real learner on a tiny random model; one round is also run with
the local sampler, whose random model never gets anything right.
"""

import dataclasses
import math
import random
import re
import time
from collections import Counter

import peft
import pyarrow.parquet as pq
import pytest

from aslfast import rewards
from aslfast.clock import CLOCK, PARTS
from aslfast.config.roles import ROLES
from aslfast.errors import UserError
from aslfast.lab.world import parse_question
from aslfast.prompts.builder import PromptBuilder
from aslfast.prompts.parsing import parse_output
from aslfast.rewards import Attempt
from aslfast.rounds.records import TIMED
from aslfast.systems.asl.generator_phase import drop_near_duplicates, generator_tasks, question_group
from aslfast.systems.asl.judge_phase import labelled_attempts, verdict_group, verification_tasks
from aslfast.systems.asl.policy_phase import answer_group, policy_tasks
from tests.support.scripted_world import (
    WORLD,
    actors,
    attempts_of,
    gather,
    play,
    pool_question,
    prefilled,
    question_turn,
)
from tests.support.tiny_models import tiny_model

KEYS = {"round", "phase", "step", "reward", "reward_parts", "kl", "entropy", "grad_norm", "tokens_per_s", "seconds"}


def test_a_whole_round(make_context, tokenizer):
    context = make_context(script=actors())
    before = {name: weight.clone() for name, weight in context.learner.model.state_dict().items()}
    lines = play(context)
    assert [(line["round"], line["phase"], line["step"]) for line in lines] == [
        (1, role, step) for role in ROLES for step in (1, 2)
    ]
    config = context.config
    counts = {"generator": (3, 3), "grm": (3, 3), "policy": (4, 4)}
    for line in lines:
        assert set(line) >= KEYS
        assert line["reward"] == pytest.approx(sum(line["reward_parts"].values()))
        assert line["seconds"] > 0 and line["tokens_per_s"] > 0
        tasks, samples = counts[line["phase"]]
        assert line["trajectories"] == tasks * samples
        learned = line["zero_variance_groups"] < 1
        assert (line["grad_norm"] > 0) == learned
    for role in ROLES:
        rows = pq.read_table(context.checkpointer.run.path / "trajectories" / f"round-001-{role}.parquet").to_pylist()
        for line in (line for line in lines if line["phase"] == role):
            own = [row for row in rows if row["step"] == line["step"]]
            assert len(own) == line["trajectories"]
            assert sum(row["reward"] for row in own) / len(own) == pytest.approx(line["reward"])
            sampled = [p for row in own for p, live in zip(row["logprobs"], row["loss_mask"], strict=True) if live]
            assert line["entropy"] == pytest.approx(-sum(sampled) / len(sampled), rel=1e-5)
            assert {row["role"] for row in own} == {role}
        version = context.learner.version[role]
        assert version > 0
        folder = context.checkpointer.run.path / "adapters" / role / f"v{version:04d}"
        peft.PeftModel.from_pretrained(tiny_model(tokenizer), folder)
    moved = {name for name, weight in context.learner.model.state_dict().items() if not weight.equal(before[name])}
    assert moved == {name for name in before if ".lora_" in name}
    assert context.state.pool and config.generator.learn


def test_a_step_says_where_its_time_went(make_context):
    context = make_context(script=actors())
    started = time.perf_counter()
    with CLOCK.part("rest"):  # as the loop over rounds does
        lines = play(context)
    took = time.perf_counter() - started
    assert sum(sum(line["time"].values()) for line in lines) == pytest.approx(took, rel=0.2)
    for line in lines:
        parts, learned = line["time"], line["grad_norm"] > 0
        assert set(parts) <= set(PARTS) and {"rollout", "reward", "monitor", "sync", "rest"} <= set(parts)
        assert sum(parts.values()) - parts["rest"] <= line["seconds"] + parts.get("commit", 0) + 0.05
        assert (line["learn_flops"] > 0) == learned == (line["mfu"] is not None)
        assert not learned or (parts["learn"] > 0 and 0 < line["mfu"] < 1)
        assert line["in_flight"]["requests"] >= line["in_flight"]["mean_requests"] >= 1 < line["in_flight"]["tokens"]
        assert 0.1 < line["peak_memory_gb"] < 100
    assert "commit" not in lines[0]["time"] and all(line["time"]["commit"] > 0 for line in lines[1:])


def test_a_learner_that_differs_from_the_local_sampler_stops_the_run(make_context):
    """Both in float32: beyond rounding one of them computes another model. Nothing of the step is committed."""
    overrides = ["advantage.drop_zero_variance=false"]
    assert 0 < max(line["mismatch_max"] for line in play(make_context("right", overrides=overrides))) < 1e-3
    context = make_context("wrong", overrides=overrides)
    context.learner.packed_model.temperature *= 8
    with pytest.raises(UserError, match=r"a generator step is not taken: learner and sampler differ by .* nats"):
        play(context)
    assert not (context.checkpointer.run.path / "metrics.jsonl").exists()


def test_same_seed_same_metrics(make_context):
    def without_timing(lines):
        return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]

    first, again, other = (play(make_context(f"run{i}", actors(), seed=seed)) for i, seed in enumerate((0, 0, 1)))
    assert without_timing(first) == without_timing(again) != without_timing(other)
    local = [play(prefilled(make_context(f"local{i}"))) for i in range(2)]
    assert without_timing(local[0]) == without_timing(local[1])


def test_a_round_in_which_nothing_succeeds(make_context):
    """A random model: no reward, no step, every line and file all the same; then again, with the versions as saved."""
    context = prefilled(make_context())
    lines = play(context)
    assert [line["phase"] for line in lines] == [role for role in ROLES for _ in range(2)]
    assert all(set(line) >= KEYS and line["reward"] == 0 == line["grad_norm"] for line in lines)
    assert context.learner.version == dict.fromkeys(ROLES, 0)
    assert all((context.checkpointer.run.path / "adapters" / role / "v0000").is_dir() for role in ROLES)
    context.state.round = 2
    assert len(play(context)) > len(lines)


def test_a_round_without_questions(make_context):
    """Nothing passes the gate: the other phases have no tasks and the round still ends."""
    context = make_context(script=actors(fair=0.0))
    lines = play(context)
    assert not context.state.pool and {line["phase"] for line in lines} == {"generator"}
    assert all(
        (context.checkpointer.run.path / "trajectories" / f"round-001-{role}.parquet").is_file() for role in ROLES
    )


@pytest.mark.parametrize("share, checks, enters", [(0.5, 1.0, True), (1.0, 1.0, True), (0.5, 0.0, False)])
def test_the_gate_of_the_pool(make_context, share, checks, enters):
    context = make_context(script=actors(fair=checks), overrides=[f"generator.min_acceptance={share}"])
    task = PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1)
    group = gather(context, question_group, task)
    assert bool(context.state.pool) is enters and len(group.trajectories) == 3
    for question in context.state.pool.values():
        assert WORLD.answer(question.text) == question.reference and question.hops == 1
        assert len(question.attempts) == 4
        for attempt in question.attempts:
            assert attempt.verdicts == ("correct" if attempt.answer == question.reference else "wrong",)


def test_rewards_of_the_generator(make_context):
    """The entropy of the policy's verdicts, by the questions that it wrote."""
    context = make_context(script=actors(right=1.0, fair=1.0))
    task = PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1)
    easy = gather(context, question_group, task)
    assert all(r.parts["entropy"] == 0.0 for r in easy.rewards)
    assert all(r.parts["format"] > 0.0 for r in easy.rewards)
    context = make_context("other", actors(right=0.5, fair=1.0))
    mixed = gather(context, question_group, task)
    by_question = {q.text: q for q in context.state.pool.values()}
    for trajectory, given in zip(mixed.trajectories, mixed.rewards, strict=True):
        verdicts = [a.verdicts[0] for a in by_question[trajectory.output].attempts]
        if Counter(t.output for t in mixed.trajectories)[trajectory.output] == 1:
            assert given.parts["entropy"] == pytest.approx(rewards.verdict_entropy(verdicts) / math.log(2))


def question_with(*attempts, reference="Oslo"):
    made = tuple(Attempt(answer, tuple(verdicts)) for answer, *verdicts in attempts)
    return pool_question("qg1-0-0", "which town?", reference, 1, made)


def test_labels_from_the_reference():
    question = question_with(("oslo", "wrong"), ("Bergen", "correct"), ("The Oslo", "wrong"), ("Bergen", "wrong"))
    assert labelled_attempts(question, "reference") == {"oslo": "correct", "Bergen": "wrong", "The Oslo": "correct"}


def test_labels_from_the_majority():
    question = question_with(
        *(("Oslo", verdict) for verdict in ("wrong", "wrong", "correct")),
        ("Bergen", "correct"),
        *(("Rome", verdict) for verdict in ("correct", "wrong")),
        ("Paris", None),
        *(("Kiel", verdict) for verdict in (None, "correct")),
    )
    assert labelled_attempts(question, "majority") == {"Oslo": "wrong", "Bergen": "correct", "Kiel": "correct"}


def test_labels_by_consensus():
    agreed = question_with(("Oslo",), ("oslo!",), ("Bergen",))
    assert labelled_attempts(agreed, "consensus") == {"Oslo": "correct", "oslo!": "correct", "Bergen": "wrong"}
    for dissent in (
        question_with(("Oslo",)),
        question_with(("Oslo",), ("Bergen",)),
        question_with(("Oslo",), ("Oslo",), ("Bergen",), ("bergen",)),
        question_with(("Bergen",), ("Bergen",), ("Oslo",)),
        question_with(),
    ):
        assert labelled_attempts(dissent, "consensus") == {}


def test_verification_tasks_are_balanced_for_each_question(make_context):
    context = make_context(script=actors(), overrides=["grm.steps=1", "grm.prompts_per_step=8"])
    context.state.pool = {
        "a": pool_question("qg1-0-0", "a?", "Oslo", 1, attempts_of("Oslo", "Rome", "Kiel", "Bergen")),
        "b": pool_question("qg1-1-0", "b?", "Oslo", 2, attempts_of("Oslo", "the Oslo", "OSLO", "Rome", "Kiel")),
        "only right": pool_question("qg1-2-0", "c?", "Oslo", 1, attempts_of("Oslo")),
        "only wrong": pool_question("qg1-3-0", "d?", "Oslo", 1, attempts_of("Rome")),
        "an older round's": pool_question("qg0-4-0", "e?", "Oslo", 1, attempts_of("Oslo", "Rome")),
        "round eleven's": pool_question("qg11-4-0", "f?", "Oslo", 1, attempts_of("Oslo", "Rome")),
    }
    (tasks,) = verification_tasks(context.tasks)
    assert len({task.id for task in tasks}) == len(tasks)  # a task that comes again is sampled anew
    distinct = {task.prompt: task for task in tasks}
    counts = Counter((task.question, task.references) for task in distinct.values())
    assert counts == {("a?", ("correct",)): 1, ("a?", ("wrong",)): 1, ("b?", ("correct",)): 2, ("b?", ("wrong",)): 2}
    assert {task.hops for task in tasks} == {1, 2} and len(tasks) == 8
    for task in tasks:
        answer = task.prompt.rpartition("answer: ")[2]
        assert task.references == ("correct" if rewards.exact_match(answer, ["Oslo"]) else "wrong",)


def test_policy_tasks_hold_all_hops_alike(make_context):
    context = make_context(script=actors(), overrides=["policy.steps=3", "policy.prompts_per_step=6"])
    for i, hops in enumerate([1] * 9 + [2] * 2 + [3]):
        context.state.pool[str(i)] = pool_question(f"qg{i % 2}-{i}-0", f"question {i}?", "x", hops, ())
    steps = policy_tasks(context.tasks)
    assert [len(step) for step in steps] == [6, 6, 6]
    for step in steps:
        assert Counter(task.hops for task in step) == {1: 2, 2: 2, 3: 2}
        assert all(task.references == ("x",) for task in step)
    one_hop = [task for step in steps for task in step if task.hops == 1]
    assert len({task.question for task in one_hop}) == 6
    newest = [q.text for q in context.state.pool.values() if q.hops == 1 and q.id.startswith("qg1-")]
    assert {task.question for task in one_hop[: len(newest)]} == set(newest)  # this round's come first


def test_few_questions_are_set_again(make_context):
    """Fewer questions than a step takes: the same task twice in one step, side by side on one sampler."""
    context = prefilled(
        make_context(overrides=["policy.prompts_per_step=12", "grm.prompts_per_step=14", "generator.steps=1"])
    )
    assert [line["phase"] for line in play(context)][-2:] == ["policy", "policy"]


def test_generated_topics_do_not_repeat_within_a_round(make_context):
    context = make_context(script=actors(), overrides=["generator.steps=5", "generator.prompts_per_step=5"])
    tasks = [task for step in generator_tasks(context.tasks) for task in step]
    topics = [task.prompt.partition(": ")[2] for task in tasks]
    assert len(tasks) == 25 and len(set(topics)) == 25 and set(topics) <= set(WORLD.facts)
    assert Counter(task.hops for task in tasks) == {1: 9, 2: 8, 3: 8}


def test_the_script_knows_the_world():
    """The actors' questions are what they claim: solvable, with the right answer."""
    for seed in range(50):
        topic = random.Random(seed).choice(sorted(WORLD.facts))
        text = question_turn(topic, 2, random.Random(seed), honest=1.0)
        _, question, answer = parse_output(("question", "answer"), text)
        assert question is not None and parse_question(question) and WORLD.answer(question) == answer


def test_a_rule_rewards_without_a_judge(make_context):
    """Exact match with the reference, and nobody asks the judge; with the judge's verdicts instead, it is asked."""
    rule = ["policy.reward=exact_match", "policy.verdicts_per_answer=0", "format_weight=0"]
    context = prefilled(make_context(script=actors(), overrides=rule))
    group = gather(context, answer_group, policy_tasks(context.tasks)[0][0])
    for trajectory, given in zip(group.trajectories, group.rewards, strict=True):
        right = rewards.exact_match(trajectory.output, trajectory.task.references)
        assert given.parts == {"rule": float(right), "format": 0.0}
    assert {r.total for r in group.rewards} == {0.0, 1.0}
    assert {request.adapter for request in context.rollout.sampler.requests} == {"policy"}


@pytest.mark.parametrize("name", rewards.GENERATOR_REWARDS)
def test_a_recipe_picks_the_generators_reward(make_context, name):
    context = make_context(
        script=actors(right=0.5, fair=1.0), overrides=[f"generator.reward={name}", "format_weight=0"]
    )
    task = PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1)
    group = gather(context, question_group, task)
    batch = tuple(t.output for t in group.trajectories)
    by_question = {q.text: q for q in context.state.pool.values()}
    for trajectory, given in zip(group.trajectories, group.rewards, strict=True):
        if batch.count(trajectory.output) > 1:  # its own attempts are not those that the pool kept
            continue
        verdicts = [a.verdicts[0] for a in by_question[trajectory.output].attempts]
        evidence = rewards.question_evidence(trajectory, verdicts, ["correct"], 0.5)
        wanted = rewards.GENERATOR_REWARDS[name](dataclasses.replace(evidence, batch=batch))
        assert given.parts == {**wanted, "format": 0.0}


def test_a_judge_that_grades(make_context):
    """Its grades pay the policy, pass the gate, label attempts and are paid against the label."""

    def play(prompt, seed):
        asked = prompt.split("user\n")[1].split("<|im_end|>")[0]
        if asked.startswith("judge"):
            question, answer = re.fullmatch(r"judge: (.*\?) answer: (.*) A B C D E F G", asked).groups()
            return [f"<verdict>{'B' if WORLD.answer(question) == answer else 'F'}</verdict>"]
        return actors(right=0.5)(prompt, seed)

    overrides = ["grm.variant=ranking", "grm.label=majority", "policy.reward=mean", "format_weight=0"]
    context = make_context(script=play, overrides=overrides)
    gather(context, question_group, PromptBuilder("compact").generator("g1-0", next(iter(WORLD.facts)), 1))
    assert {v for q in context.state.pool.values() for a in q.attempts for v in a.verdicts} == {"B", "F"}
    task = verification_tasks(context.tasks)[0][0]
    group = gather(context, verdict_group, task)
    paid = {"correct": 1 - 0.2**2, "wrong": 1 - 0.0**2}[task.references[0]]
    assert [r.parts["match"] for r in group.rewards] == pytest.approx([paid] * 3)
    answered = gather(context, answer_group, policy_tasks(context.tasks)[0][0])
    assert {r.parts["judge"] for r in answered.rewards} == {0.8, 0.0}


def test_near_duplicates_leave_the_pool(make_context):
    context = make_context(script=actors())
    asked = ["Which river is in Oslo?", "which river is there in Oslo", "Which river is in Rome?"]
    context.state.pool = {q: pool_question(f"qg1-{i}-0", q, "x", 1, ()) for i, q in enumerate(asked)}
    drop_near_duplicates(context.state)
    assert list(context.state.pool) == [asked[0], asked[2]]
