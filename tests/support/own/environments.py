"""Environments as a user would write them, right ones and wrong ones."""

from __future__ import annotations

import random
import time

from aslfast.environment import Environment, Question


class Countdown:
    """Over after `turns` actions; each earns 0.25, and the word "gold" ends it with 1."""

    def __init__(self, turns, opening="go"):
        self.observation, self.left, self.heard = opening, turns, []

    def step(self, action):
        self.heard.append(action)
        self.left -= 1
        if "gold" in action:
            return None, 1.0
        return (f"{self.left} left" if self.left else None), 0.25


class Game(Environment):
    """Carries a level from step to step: it names it in its tasks, and plays it."""

    level = 1

    def tasks(self):
        return [f"level {self.level}, game {i}?" for i in range(4)]

    def eval_tasks(self):
        return [Question(f"e{i}", f"game {i}?") for i in range(3)]

    def reset(self, task, seed):
        return Countdown(1 + seed % 2, f"{self.level}: {random.Random(seed).random()}")

    def update(self, groups):
        self.level += 1 + sum(len(group.trajectories) for group in groups)

    def state(self):
        return {"level": self.level}

    def restore(self, state):
        self.level = state["level"]


class Rewarded(Environment):
    """No episodes: it rewards short answers."""

    def tasks(self):
        return ("what is short?",)

    def eval_tasks(self):
        return ("what is shorter?",)

    def reward(self, trajectory):
        return 1 / (1 + len(trajectory.output or "xxx"))


class Plain(Environment):
    """Nothing but questions."""

    def tasks(self):
        return [Question("t", "what is the job of Batu Nirkek?", ("farmer",))]

    def eval_tasks(self):
        return self.tasks()


# --- wrong ones ---------------------------------------------------------------------------------------------------

function = len


class NotOne:
    def __init__(self, config): ...


class Abstract(Environment):
    def tasks(self):
        return ["a?"]


class RaisesWhenMade(Game):
    def __init__(self, config):
        raise RuntimeError("no licence\nfound")


class Exits(Game):
    def __init__(self, config):
        raise SystemExit(3)


class NoTasks(Game):
    def tasks(self):
        return []


class NoEvals(Game):
    def eval_tasks(self):
        return []


class SameIds(Game):
    def eval_tasks(self):
        return [Question("e", "a?"), Question("e", "b?")]


class OneText(Game):
    def tasks(self):
        return "what?"


class NumberTasks(Game):
    def tasks(self):
        return ["a?", 5]


class NumberText(Game):
    def tasks(self):
        return [Question("a", 5)]


class HalfSurrogate(Game):
    def tasks(self):
        return ["what is \ud800?"]


class HugeTask(Game):
    def tasks(self):
        return ["x" * 10_000_000]


class NoSeed(Game):
    def reset(self, task):
        return Countdown(1)


class NoEpisode(Game):
    def reset(self, task, seed):
        return "go"


class NoPair(Game):
    def reset(self, task, seed):
        return Played(lambda action: "over")


class NaN(Game):
    def reset(self, task, seed):
        return Played(lambda action: ("on", float("nan")))


class NumberObservation(Game):
    def reset(self, task, seed):
        return Played(lambda action: (5, 0.0))


class Raises(Game):
    def reset(self, task, seed):
        return Played(lambda action: {}[action])


class Hangs(Game):
    def reset(self, task, seed):
        return Played(lambda action: time.sleep(60))


class NoRewardNumber(Rewarded):
    def reward(self, trajectory):
        return "good"


class StateIsNoJson(Game):
    def state(self):
        return {1, 2}


class HugeState(Game):
    def state(self):
        return "x" * 10_000_000


class ForgetsState(Game):
    made = 0

    def state(self):
        self.made += 1
        return self.made

    def restore(self, state): ...


class ResetMovesState(Game):
    def reset(self, task, seed):
        self.level += 1
        return Countdown(1)


class Chance(Game):
    def reset(self, task, seed):
        return Countdown(1, str(random.random()))


class FailsLater(Game):
    """Right in the trial; in the run its episodes fail where the policy says "bad"."""

    def reset(self, task, seed):
        return Played(self.answer)

    @staticmethod
    def answer(action):
        if "bad" in action:
            raise ValueError("a bad word")
        return None, 1.0


class MovesInTheRun(Game):
    def reset(self, task, seed):
        return Played(self.answer)

    def answer(self, action):
        self.level += action != "hello"
        return None, 1.0


class Played:
    observation = ""

    def __init__(self, step):
        self.step = step
