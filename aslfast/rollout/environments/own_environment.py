"""An environment of one's own, guarded: what it does wrong is one clear error before the run, a failed trajectory in
it, or the end of a run that can be resumed; never a wrong number.
"""

from __future__ import annotations

import json
import reprlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from aslfast import plugins
from aslfast.core import Group, Question, StopReason, Task, Trajectory
from aslfast.environment import Environment, Episode
from aslfast.errors import UserError
from aslfast.retrieval.retriever import AnyIndex

T = TypeVar("T")

SETUP_S = 600.0  # of making the environment, and of its tasks: it may read large files
MAX_TASK_CHARS = 100_000
MAX_STATE_CHARS = 1_000_000  # of JSON: it is committed with every step that changes it
MIN_FAILURES = 3  # consecutive trajectories before the environment counts as broken


class CallFailedError(Exception):
    """A call of an environment of one's own raised, took too long or returned what it must not."""


@dataclass(eq=False)
class GuardedEpisode:
    """An episode whose errors are data: `failed` is set, and the trajectory ends."""

    owner: OwnEnvironment
    inner: Episode | None = None
    observation: str = ""
    reward: float = 0.0  # so far
    failed: bool = False

    def take(self, action: str) -> str | None:
        """Return what the model reads next; None once the episode is over. Raise CallFailedError."""
        assert self.inner
        observation, reward = self.owner.call("step", _stepped, self.inner.step, action)
        self.reward += reward
        return None if observation is None else self.owner.cut(observation)

    def step(self, action: str) -> str | None:
        """Return what the model reads next; None once the episode is over or has failed."""
        try:
            return self.take(action)
        except CallFailedError as error:
            self.failed = True
            self.owner.count_failure(error)
            return None


@dataclass(eq=False)
class OwnEnvironment(Environment):
    """Calls `inner`, which the recipe names by the import path `name`.

    limit_s: of one call in a trajectory. give_up_after_s: once at least MIN_FAILURES consecutive trajectories, and all
    for this long, have failed, the next one raises UserError. max_chars: of an observation. notify: called with the
    first failure of each method.
    """

    name: str
    inner: Environment
    limit_s: float
    give_up_after_s: float
    max_chars: int
    notify: Callable[[str], None] = lambda _: None
    failure: str = ""  # the last one
    _failures: int = field(default=0, init=False)  # consecutive trajectories
    _failing_since: float = field(default=0.0, init=False)
    _notified: set[str] = field(default_factory=set, init=False)

    # --- a trajectory ------------------------------------------------------------------------------------------

    @property
    def plays(self) -> bool:
        """Whether it has a part in trajectories, as an episode or as a reward."""
        return self.gives("reset") or self.gives("reward")

    def start(self, task: Task, seed: int) -> GuardedEpisode | None:
        """Return a task's episode, a failed one where `reset` fails; None where the task has none."""
        try:
            return self.opened(task, seed)
        except CallFailedError as error:
            self.count_failure(error)
            return GuardedEpisode(self, failed=True)

    def opened(self, task: Task, seed: int) -> GuardedEpisode | None:
        """Return a task's episode; None where it has none. Raise CallFailedError."""
        inner = self.call("reset", _episode, self.inner.reset, task, seed)
        return GuardedEpisode(self, inner, self.cut(inner.observation)) if inner else None

    def rewarded(self, trajectory: Trajectory) -> Trajectory:
        """Return a trajectory with its reward; a failed one where there is none."""
        if trajectory.stop is StopReason.TOOL_FAILED:
            return replace(trajectory, environment_reward=None)
        try:
            reward = self.reward_of(trajectory)
        except CallFailedError as error:
            self.count_failure(error)
            return replace(trajectory, stop=StopReason.TOOL_FAILED, output=None, environment_reward=None)
        self._failures = 0
        return replace(trajectory, environment_reward=reward)

    def reward_of(self, trajectory: Trajectory) -> float:
        """Return a trajectory's reward. Raise CallFailedError."""
        return self.call("reward", plugins.finite_number, self.inner.reward, trajectory)

    def cut(self, observation: str) -> str:
        """Return an observation as a text of at most `max_chars` that any file can hold."""
        return observation[: self.max_chars].encode("utf-8", "replace").decode("utf-8")

    def call(self, method: str, check: Callable[..., T], function: Callable[..., object], *arguments: object) -> T:
        """Return a call's result, checked. Raise CallFailedError, which names the method."""
        return self._call(self.limit_s, method, check, function, *arguments)

    def _call(
        self, limit_s: float, method: str, check: Callable[..., T], function: Callable[..., object], *arguments: object
    ) -> T:
        try:
            with plugins.time_limit(limit_s):
                given = function(*arguments)
        except (Exception, SystemExit) as error:
            raise CallFailedError(f"{self.name}.{method} raised {plugins.described(error)}") from None
        try:
            return check(given)
        except (ValueError, TypeError) as error:
            raise CallFailedError(f"{self.name}.{method} returned {error}") from None

    def count_failure(self, error: CallFailedError) -> None:
        """Count a failed trajectory. Raise UserError where nothing has worked for too long."""
        self.failure = f"environment: {error}"
        if self._failures == 0:
            self._failing_since = time.monotonic()
        self._failures += 1
        method = str(error).split(" ", 1)[0]
        if method not in self._notified:
            self._notified.add(method)
            self.notify(f"{self.failure}; the trajectory counts as failed")
        failing_s = time.monotonic() - self._failing_since
        if self._failures >= MIN_FAILURES and failing_s >= self.give_up_after_s:
            raise UserError(f"{self.failure}; {self._failures} consecutive trajectories failed, in {failing_s:.0f} s")

    # --- the run: every error ends it --------------------------------------------------------------------------

    def tasks(self) -> list[Question]:
        """Return the tasks to train on. Raise UserError."""
        return self._or_end(SETUP_S, "tasks", _questions, self.inner.tasks)

    def eval_tasks(self) -> list[Question]:
        """Return the tasks to evaluate on. Raise UserError."""
        return self._or_end(SETUP_S, "eval_tasks", _questions, self.inner.eval_tasks)

    def topics(self) -> list[str]:
        """Return the generator's topics. Raise UserError."""
        return self._or_end(SETUP_S, "topics", _texts, self.inner.topics)

    def index(self, held_out: bool) -> AnyIndex | None:
        """Return the index to search. Raise UserError."""
        return self._or_end(SETUP_S, "index", _index, self.inner.index, held_out)

    def oracle(self, question: str, held_out: bool) -> str | Sequence[str] | None:
        """Return the true answer to a question, or its right spellings. Raise UserError."""
        return self._or_end(self.limit_s, "oracle", _truth, self.inner.oracle, question, held_out)

    def updated(self, groups: Sequence[Group]) -> str:
        """Let the environment learn from a step; return its state as JSON. Raise UserError.

        It goes on from the JSON, as a resumed run does.
        """
        self._or_end(plugins.LIMIT_S, "update", lambda _: None, self.inner.update, groups)
        state = self.saved_state()
        self.restore_saved(state)
        return state

    def saved_state(self) -> str:
        """Return the state as JSON. Raise UserError."""
        return self._or_end(plugins.LIMIT_S, "state", _as_json, self.inner.state)

    def restore_saved(self, state: str) -> None:
        """Go on from a state as JSON. Raise UserError where the environment does not take it, or has another then."""
        self._or_end(plugins.LIMIT_S, "restore", lambda _: None, self.inner.restore, json.loads(state))
        self.check_unmoved(state, "restore does not set all that state returns")

    def check_unmoved(self, state: str, why: str = "another method than update changed what state returns") -> None:
        """Raise UserError where the state is another one: trajectories would depend on their order."""
        if (now := self.saved_state()) != state:
            raise UserError(f"environment: {self.name}: {why} ({now[:100]}, it was {state[:100]})")

    def gives(self, method: str) -> bool:
        """Return whether the environment overrides a method."""
        return self.inner.gives(method)

    def _or_end(self, limit_s: float, method: str, check: Callable[..., T], function: Callable[..., object],
                *arguments: object) -> T:  # fmt: skip
        try:
            return self._call(limit_s, method, check, function, *arguments)
        except CallFailedError as error:
            raise UserError(f"environment: {error}") from None


# --- what each method must return: ValueError says what it returned, and what it should ------------------------------


def _questions(given: object) -> list[Question]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f"{_shown(given)}; it returns a list of questions or texts")
    return [_checked(question, number) for number, question in enumerate(as_questions(given))]


def as_questions(given: Sequence[Question | str]) -> list[Question]:
    """Return questions; a text becomes one, whose number is its id."""
    return [Question(str(number), item) if isinstance(item, str) else item for number, item in enumerate(given)]


def _checked(item: object, number: int) -> Question:
    if not isinstance(item, Question):
        raise ValueError(f"{_shown(item)} as entry {number}; an entry is a Question or a text")
    try:
        question = msgspec.convert(msgspec.to_builtins(item), Question)
        _ = "".join((question.id, question.text, *question.references)).encode("utf-8")
    except (msgspec.ValidationError, UnicodeEncodeError, TypeError) as error:
        raise ValueError(f"{_shown(item)} as entry {number}: {error}") from None
    if not question.text.strip() or len(question.text) > MAX_TASK_CHARS:
        raise ValueError(f"{_shown(item)} as entry {number}; a text has 1 to {MAX_TASK_CHARS:,} characters")
    return question


def _texts(given: object) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(item, str) for item in given):
        raise ValueError(f"{_shown(given)}; it returns a list of texts")
    return list(given)


def _episode(given: object) -> Episode | None:
    if given is None:
        return None
    observation, step = getattr(given, "observation", None), getattr(given, "step", None)
    if not isinstance(observation, str) or not callable(step):
        raise ValueError(f"{_shown(given)}; it returns an object with a text `observation` and a method `step`")
    episode: Episode = given  # pyright: ignore[reportAssignmentType]
    return episode


def _stepped(given: object) -> tuple[str | None, float]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(f"{_shown(given)}; it returns (text or None, reward)")
    return _text_or_none(given[0]), plugins.finite_number(given[1])


def _text_or_none(given: object) -> str | None:
    if given is not None and not isinstance(given, str):
        raise ValueError(f"{_shown(given)}, which is neither a text nor None")
    return given


def _truth(given: object) -> str | Sequence[str] | None:
    return _texts(given) if isinstance(given, (list, tuple)) else _text_or_none(given)


def _index(given: object) -> AnyIndex | None:
    if given is not None and not isinstance(given, AnyIndex):
        raise ValueError(f"{_shown(given)}; it returns what aslfast.retrieval.retriever.open_index returns, or None")
    return given


def _as_json(given: object) -> str:
    text = json.dumps(given, allow_nan=False)  # raises ValueError or TypeError
    if len(text) > MAX_STATE_CHARS:
        raise ValueError(f"{len(text):,} characters of JSON; at most {MAX_STATE_CHARS:,} are committed with every step")
    return text


def _shown(given: object) -> str:
    return " ".join(reprlib.repr(given).split())[:100]
