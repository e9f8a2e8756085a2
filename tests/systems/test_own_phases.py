"""Phases of one's own: acts, rewards after all plays, groups by role, and one clear line for what they do wrong."""

import asyncio
import json
from dataclasses import dataclass

import pytest

from aslfast.config import from_tree, load_recipe, to_toml, toml
from aslfast.core import Question, Task
from aslfast.errors import UserError
from aslfast.phase import Play
from aslfast.rounds.round import run_round
from aslfast.systems.registry import phases_of, plan_of
from tests.support.own.phases import Again
from tests.support.scripted_world import WORLD, actors

MODULE = "tests.support.own.phases"
STEPS = ["{name}.steps=2", "{name}.tasks_per_step=2", "{name}.group_size=3"]
DUEL = ['roles.first.prompt="say: {asked}"', 'roles.second.prompt="reply: {said}"', 'roles.policy.adapter="second"']


def settings(name, *more):
    return [f'phases=["{MODULE}:{name}"]', *(f"own_phase.{s.format(name=name)}" for s in STEPS), *more]


def speaker(prompt, seed):
    said = "Oslo" if seed % 2 else "Bergen"
    return [f"<answer>{said}</answer><|im_end|>"] * 2


def played(context):
    asyncio.run(run_round(context))
    lines = (context.checkpointer.run.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def recorded(monkeypatch, context):
    """What the learner is given, by step: (adapter, trajectories, advantages)."""
    steps, real = [], context.learner.step

    def step(adapter, trajectories, advantages):
        steps.append((adapter, list(trajectories), [signal.advantage for signal in advantages]))
        return real(adapter, trajectories, advantages)

    monkeypatch.setattr(context.learner, "step", step)
    return steps


def test_two_players_learn_from_what_each_of_them_earns(make_context, monkeypatch):
    context = make_context(script=speaker, overrides=settings("Duel", *DUEL))
    steps = recorded(monkeypatch, context)
    lines = played(context)
    assert [line["phase"] for line in lines] == ["Duel", "Duel"] and context.config.adapters == ("first", "second")
    assert [adapter for adapter, *_ in steps[:2]] == ["first", "second"]
    for adapter, trajectories, advantages in steps:
        assert {t.task.role for t in trajectories} == {adapter}
        sign = 1 if adapter == "first" else -1  # zero-sum: who wins, the other loses
        longest = [len(t.task.prompt) if adapter == "second" else len(t.output) for t in trajectories]
        best = max(range(len(longest)), key=lambda i: sign * longest[i])
        assert advantages[best] == max(advantages)
    (roles,) = {tuple(line["roles"]) for line in lines}
    assert roles == ("first", "second")
    for line in lines:
        assert line["roles"]["first"]["reward"] == -line["roles"]["second"]["reward"]
        assert sum(own["tokens"] for own in line["roles"].values()) == 2 * line["tokens"]
        assert set(line["reward_parts"]) == {"reward", "against"} and "second" in line["other_updates"]
    assert context.learner.version == {"first": 2, "second": 2}
    assert {path.name for path in (context.checkpointer.run.path / "adapters").iterdir()} == {"first", "second"}


def test_the_second_player_reads_what_the_first_said_on_one_line(make_context):
    context = make_context(script=speaker, overrides=settings("Duel", *DUEL))
    played(context)
    prompts = [context.rollout.chat.text(r.token_ids) for r in context.rollout.sampler.requests]
    assert any("reply: Oslo" in prompt for prompt in prompts) and any("say: question 0" in prompt for prompt in prompts)


def test_acts_about_a_written_question_are_compared_with_each_other_alone(make_context):
    asking = [DUEL[0], 'roles.second.prompt="reply: {question}"', DUEL[2]]
    context = make_context(script=speaker, overrides=settings("Answering", *asking))
    (phase,) = phases_of(context.config)
    (task, _) = phase.tasks_now(context.tasks)
    result = asyncio.run(phase.group_of(context.start_step().for_group(), task))
    first, *answers = result.groups
    assert first.role == "first" and {t.task.question for t in first.trajectories} == {task.question}
    said = {t.output for t in first.trajectories}
    assert {t.task.question for group in answers for t in group.trajectories} == said == {"Oslo", "Bergen"}
    for group in answers:
        about = {(t.task.question, t.task.prompt, t.task.references, t.task.hops) for t in group.trajectories}
        ((question, prompt, references, hops),) = about
        assert (prompt, references, hops) == (f"reply: {question}", ("Oslo",), 2)
    assert sum(len(group.trajectories) for group in answers) == 6


def test_a_second_attempt_holds_both_parts_in_one_stream(make_context, monkeypatch):
    context = make_context(script=lambda *_: ["<answer>Rome</answer><|im_end|>"], overrides=settings("Again"))
    steps = recorded(monkeypatch, context)
    context.config.advantage_of("policy")
    sampler = context.rollout.sampler
    assert {tuple(line["roles"]) for line in played(context)} == {("policy",)}  # not named after its phase
    again = [r for r in sampler.requests if "Check it." in context.rollout.chat.text(r.token_ids)]
    first = next(r for r in sampler.requests if r.token_ids == again[0].token_ids[: len(r.token_ids)])
    assert again and first
    shown = context.rollout.chat.text(again[0].token_ids)
    assert shown.count("<|im_start|>user") == 2 and shown.count("<|im_end|>") == 3
    for _, trajectories, _ in steps:
        for trajectory in trajectories:  # the first attempts earn nothing here, and are not learnt from on their own
            kinds = [turn.kind for turn in trajectory.turns]
            assert kinds == ["prompt", "sampled", "prompt", "sampled"]
            sampled = [turn.end - turn.start for turn in trajectory.turns if turn.kind == "sampled"]
            assert trajectory.n_sampled == sum(sampled)


def test_players_without_an_adapter_learn_nothing(make_context):
    context = make_context(script=speaker, overrides=settings("Again", 'roles.policy.adapter="base"'))
    assert [line["grad_norm"] for line in played(context)] == [0.0, 0.0] and "policy" not in context.learner.version


def test_a_shipped_phase_trains_the_adapter_that_plays_its_role(make_context):
    """The judge on the policy's adapter: one adapter less, and both phases move the same one."""
    context = make_context(script=actors(), overrides=['roles.grm.adapter="policy"', "generator.steps=3"])
    lines = played(context)
    phases = ("grm", "policy")
    moved = {name: sum(line["grad_norm"] > 0 for line in lines if line["phase"] == name) for name in phases}
    assert context.config.adapters == ("generator", "policy") and min(moved.values()) > 0
    assert context.learner.version["policy"] == sum(moved.values())


@pytest.mark.parametrize(("turns", "learn", "learnt"), [(None, True, 2), (2, False, 1)])
def test_going_on_from_the_middle(make_context, turns, learn, learnt):
    context = make_context(script=speaker, overrides=settings("Again"))
    step = context.start_step()
    play = Play(step, Task("t", "policy", "", "Which town?"), 0)

    async def both():
        first = await play.act("policy", "answer: {question}", question="Which town?")
        return first, await play.go_on(first, "Check it.", turns, learn)

    first, second = asyncio.run(both())
    n = len(first.token_ids)
    assert second.token_ids[:n] == first.token_ids and second.logprobs[:n] == first.logprobs
    assert sum(second.loss_mask[:n]) == (sum(first.loss_mask) if learn else 0)
    assert sum(turn.kind == "sampled" for turn in second.turns) == 2
    assert (second.n_sampled > second.turns[-1].end - second.turns[-1].start) == (learnt == 2)


@dataclass(frozen=True)
class Options:
    tries: int
    share: float = 0.5


def test_options_are_read_as_a_dataclass():
    config = load_recipe("tiny", settings("Again"))
    phase = Again(config, {"tries": 3})
    assert phase.options_as(Options) == Options(3, 0.5)
    for given, said in (
        ({"tries": "x"}, "Expected `int`, got `str`"), ({}, "missing required field `tries`"),
        ({"tries": 3, "shares": 1.0}, r"unknown key own_phase\.Again\.options\.shares; use tries, share"),
    ):  # fmt: skip
        phase.options = given
        with pytest.raises(UserError, match=said):
            phase.options_as(Options)


def test_an_answer_is_about_the_question_that_came_up(make_context):
    context = make_context(script=speaker, overrides=settings("Again", 'roles.policy.prompt="answer: {question}"'))
    play = Play(context.start_step(), Task("t", "policy", "", "Norway", ("none",)), 0)
    act = asyncio.run(play.act("policy", about=Question("q", "Which\ntown?", ("Oslo",), 2)))
    assert (act.task.question, act.task.references, act.task.hops) == ("Which\ntown?", ("Oslo",), 2)
    assert act.task.prompt == "answer: Which town?" and act.task.id == "t.policy1"  # data is one line of the prompt


def test_a_play_sees_more_passages_than_a_role_does(make_context):
    play = Play(make_context(script=speaker).start_step(), Task("t", "policy", ""), 0)
    query = f"{WORLD.passages()[3].title} genre"

    async def both():
        return await asyncio.gather(play.passages(query, 7), play.search(query))

    found, shown = asyncio.run(both())
    assert len(found) == len(set(found)) == 7 and found[0] == shown == WORLD.passages()[3].contents


def test_a_conversation_to_start_from_is_data(make_context):
    context = make_context(script=speaker, overrides=settings("Talk"))
    played(context)
    (shown,) = {context.rollout.chat.text(r.token_ids) for r in context.rollout.sampler.requests}
    assert shown.count("<|im_start|>user") == 2 and "<answer>Rome" not in shown  # its tags are broken


def test_roles_of_ones_own_are_the_only_ones_and_survive_a_save():
    config = load_recipe("tiny", settings("Duel", *DUEL))
    assert set(config.roles) == {"first", "second", "policy"} and config.adapter_of("policy") == "second"
    assert from_tree(toml.parse(to_toml(config)), "saved") == config
    assert [plan.name for plan in plan_of(config)] == ["Duel"] and phases_of(config)[0].adapters == ("first", "second")


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ('roles.policy.adapter="thrid"', "roles.policy.adapter is 'thrid'; leave it empty, or use base or a role"),
        ('roles.policy.tools=["calculator"]', "roles.policy.tools is 'calculator'; use"),
        ("roles.policy.loss.clip_lwo=0.1", "unknown key 'roles.policy.loss.clip_lwo'; did you mean"),
        ("roles.policy.advantage.scale=1", "roles.policy.advantage.scale is 1; it takes a value of type str"),
        (["roles.grm.adapter='policy'", "roles.grm.loss.kl_coef=1"], "roles.grm.loss is .*: set roles.policy.loss, or"),
        (["roles.grm.adapter='base'", "roles.grm.loss.kl_coef=1"], "roles.grm.loss is .* alone never learns: remove"),
        (["roles.grm.adapter='policy@previous'", "roles.grm.loss.kl_coef=1"], "an earlier version never learns"),
        (["roles.grm.adapter='base'", "roles.grm.advantage.scale='none'"], "roles.grm.advantage is .* never learns"),
        ('roles.other.output=["answer"]', "the evaluation asks the role policy; add the table roles.policy"),
        ('phases=["policy", "my_game:policy"]', "phases has policy twice, and a round plays a phase of one name once"),
        (["roles.base.depth=1", "roles.policy.depth=1"], "roles.base.*: base names the base alone"),
        (["roles.policy.adapter='base'", "roles.x.adapter='base'"], "no role has an adapter of its own, and nothing"),
        (["roles.policy.depth=0", "roles.x.depth=0", "phases=['sft']", "sft.role='x'"], "set sft.data to a file"),
        ('phases=["generatr"]', "phases is 'generatr'; did you mean 'generator'"),
        ("own_phase.Duel.steps=1", "own_phase is 'Duel'; name it in phases as module:Name"),
        ("roles.policy=1", "roles.policy is a table"),
    ],
)
def test_what_does_not_fit_together_is_refused(setting, error):
    with pytest.raises(UserError, match=error):
        load_recipe("tiny", [setting] if isinstance(setting, str) else setting)


def test_a_role_has_settings_of_its_own():
    config = load_recipe("tiny", ["roles.policy.loss.clip_low=0.1", "roles.policy.temperature=0.5"])
    assert config.loss_of("policy").clip_low == 0.1 and config.loss_of("grm").clip_low == config.loss.clip_low
    assert list(config.roles) == ["generator", "grm", "policy"] and config.roles["policy"].depth == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Crash", r"phases: tests.support.own.phases:Crash.rewards raised ZeroDivisionError: no plays \(phases.py:"),
        ("NotFinite", "NotFinite.rewards gave nan; give finite numbers, dicts of them, SegmentRewards, or None"),
    ],
)
def test_a_phase_that_does_wrong_ends_the_run_with_one_line(make_context, name, error):
    context = make_context(script=speaker, overrides=settings(name))
    with pytest.raises(UserError, match=error):
        asyncio.run(run_round(context))


def test_a_phase_of_an_unknown_role_is_refused_before_the_start():
    with pytest.raises(UserError, match=r"the recipe lacks the table roles\.nobody"):
        phases_of(load_recipe("tiny", settings("Stranger")))
