"""A phase of one's own for tests that uses every hook: pool, filters, replay, a throw-away student, snapshots."""

import random
from dataclasses import dataclass, field

from aslfast.filters import Check, filtered, rule
from aslfast.phase import Group, OwnPhase, Question, Reward, SegmentRewards, Span
from aslfast.pool import Pool, Replay


@dataclass
class Kept:
    pool: Pool = field(default_factory=Pool)
    replay: Replay = field(default_factory=lambda: Replay(size=6, max_age=3))
    gains: list[float] = field(default_factory=list)


class Everything(OwnPhase):
    """The policy against what it was a round ago; a student of one step says what the step's questions are worth."""

    roles = ("policy", "past")

    def __init__(self, config, options):
        super().__init__(config, options)
        self.state = Kept()

    def tasks(self, context):
        pool = self.state.pool
        if not pool.items:
            for question in context.data.real_questions[:6]:
                pool.add(question)
        return pool.draw(2, context.rng(f"draw{context.state.phase_step}"))

    async def play(self, play, task):
        checks = [
            rule("spoke", lambda act: act.n_sampled > 1, "reward", -1.0),
            Check("lucky", lucky, "resample", tries=2),
        ]
        said = await filtered(play, lambda: play.act("policy", "answer: {question}", question=task.question), checks)
        return said.act, await play.act("past", "answer: {question}", question=task.question)

    def rewards(self, task, plays):
        return [(SegmentRewards([first_turn(one)], 1.0 * (length(one) > length(other))), 0.0) for one, other in plays]

    async def learn_from(self, control, groups):
        asked = [group.trajectories[0].task for group in groups if group.role == "policy" and group.trajectories]
        control.copy("policy", "student")
        questions = [q for q in self.state.pool.items.values() if q.question.text in {task.question for task in asked}]
        samples = await control.sample("student", [item.question for item in questions], "answer: {question}", 3)
        control.learn("student", [Group.of([(t, Reward({"length": length(t)})) for t in one]) for one in samples])
        self.state.gains.append(await control.evaluate("student", [item.question for item in questions], "{question}"))
        more = self.state.replay.draw(2, play_rng(control))
        self.state.replay.add(groups, control.state.step, lambda t, _: t.task.role == "policy")
        return [*groups, *(Group.of([(t, reward), (t, Reward())]) for t, reward in more)]

    def after_step(self, groups):
        for group in groups:
            if group.role == "policy" and group.trajectories:
                rewards = [reward.total for reward in group.rewards]
                asked = group.trajectories[0].task.question
                item = next(item for item in self.state.pool.items.values() if item.question.text == asked)
                self.state.pool.add(item.question, 0.1 + max(rewards) - min(rewards))

    async def after_phase(self, control):
        control.copy("policy", "kept")


def lucky(play, act):
    return play.rng(f"luck{act.task.id}").random() > 0.3


def play_rng(control):
    return random.Random(control.rollout.seed)


def length(act):
    return float(act.n_sampled)


def first_turn(act):
    turn = next(turn for turn in act.turns if turn.kind == "sampled")
    return Span("first", turn.start, turn.end, reward=float(turn.end - turn.start), kl_weight=2.0)


class Revised(OwnPhase):
    """Every reward is doubled, and what the step before played comes back."""

    roles = ("policy",)

    def __init__(self, config, options):
        super().__init__(config, options)
        self.state = Replay()

    def tasks(self, context):
        return ["Which town?", "Which river?"]

    async def play(self, play, task):
        return (await play.act("policy", "answer: {question}", question=task.question),)

    def rewards(self, task, plays):
        return [(float(i),) for i, _ in enumerate(plays)]

    async def learn_from(self, control, groups):
        old = [pair for group in groups for pair in self.state.of(group)]
        self.state.add(groups, control.state.step, lambda *_: True)
        doubled = [Group.of([(t, Reward({"twice": 2 * r.total})) for t, r in pairs(group)]) for group in groups]
        return doubled + ([Group.of(old)] if old else [])


class AllDropped(Revised):
    """Nothing that it plays has a reward."""

    def rewards(self, task, plays):
        return [(None,) for _ in plays]


class Against(Revised):
    """The policy and what it was before."""

    roles = ("policy", "past")

    async def play(self, play, task):
        acts = [await play.act(role, "answer: {question}", question=task.question) for role in self.roles]
        return tuple(acts)

    def rewards(self, task, plays):
        return [(float(i), 0.0) for i, _ in enumerate(plays)]

    async def learn_from(self, control, groups):
        return groups


@dataclass
class Gains:
    gains: list[float] = field(default_factory=list)


class Student(Revised):
    """A student that starts as the policy takes a step of its own in each step."""

    def __init__(self, config, options):
        super().__init__(config, options)
        self.state = Gains()

    async def learn_from(self, control, groups):
        control.copy("policy", "student")
        asked = [Question("q", "Which town?", ("Oslo",))]
        (samples,) = await control.sample("student", asked, "answer: {question}", 4)
        control.learn("student", [Group.of([(t, Reward({"r": float(i)})) for i, t in enumerate(samples)])])
        self.state.gains.append(await control.evaluate("student", asked, "answer: {question}", 4))
        return groups


def pairs(group):
    return zip(group.trajectories, group.rewards, strict=True)
