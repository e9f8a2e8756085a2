"""Phases of one's own for tests: a duel, a second attempt, and some that do wrong."""

from aslfast.phase import OwnPhase, Question


class Duel(OwnPhase):
    roles = ("first", "second")

    def tasks(self, context):
        return [Question(f"q{i}", f"question {i}") for i in range(3)]

    async def play(self, play, task):
        said = await play.act("first", asked=task.question)
        return said, await play.act("second", said=said.output or "nothing")

    def rewards(self, task, plays):
        scores = [float(len(first.output)) for first, _ in plays]
        return [(score, {"against": -score}) for score in scores]


class Four(Duel):
    roles = ("first", "second", "policy", "watcher")

    async def play(self, play, task):
        first = await play.act("first", asked=task.question)
        others = [await play.act(role, said=first.output or "nothing") for role in self.roles[1:]]
        return first, *others

    def rewards(self, task, plays):
        return [tuple(float(len(act.token_ids) % 7) for act in acts) for acts in plays]


class Again(OwnPhase):
    roles = ("policy",)

    def tasks(self, context):
        return ["Which town?"]

    async def play(self, play, task):
        first = await play.act("policy", "answer: {question}", question=task.question)
        return first, await play.go_on(first, "Check it.")

    def rewards(self, task, plays):
        return [(None, float(two.output != one.output)) for one, two in plays]


class Answering(Duel):
    """The second answers twice what the first of its play asked."""

    async def play(self, play, task):
        asked = await play.act("first", asked=task.question)
        question = Question("q", asked.output or "Nothing?", ("Oslo",), 2)
        return asked, *[await play.act("second", about=question) for _ in range(2)]

    def rewards(self, task, plays):
        return [(1.0, float(i), float(i + 1)) for i, _ in enumerate(plays)]


class Told(Again):
    """Rewards what the configuration says at the step."""

    def tasks(self, context):
        assert context.config is self.config
        return ["Which town?"]

    def rewards(self, task, plays):
        said = {"bonus": self.options["bonus"], "weight": self.config.format_weight}
        return [(None, said) for _ in plays]


class Searching(Told):
    """Sets its own option, and a rate, by what it found."""

    async def after_phase(self, control):
        found = control.state.round * 10.0
        control.set("own_phase.Searching.options.bonus", found)
        control.set("learner.learning_rate", found / 1e4)


class Talk(Again):
    async def play(self, play, task):
        return (await play.talk("policy", ["Which town?", "<answer>Rome</answer>", "No."]),)

    def rewards(self, task, plays):
        return [(1.0,) for _ in plays]


class Crash(Again):
    def rewards(self, task, plays):
        raise ZeroDivisionError("no plays")


class NotFinite(Again):
    def rewards(self, task, plays):
        return [(0.0, float("nan")) for _ in plays]


class Stranger(Again):
    roles = ("nobody",)
