"""The records of a run, one an optimizer step (metrics.jsonl) and one a round (rounds.jsonl), and who hears of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aslfast.core import Group
from aslfast.learner.step_metrics import UpdateStats
from aslfast.metrics.health import step_health
from aslfast.rollout.counters import StepCounters
from aslfast.sampler.prefix_cache_stats import PrefixCacheCounts

Metrics = Mapping[str, Any]  # by name, as JSON can hold them
# what of a line depends on the machine and its hour: two runs with the same figures differ in it
TIMED = frozenset({
    "seconds", "tokens_per_s", "sync_check_ms", "time", "overlapped", "mfu", "peak_memory_gb", "in_flight",
    "engine_restarts",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Means over the trajectories of a step's role.

    entropy: minus the mean log-prob of the sampled tokens, an unbiased estimate of the mean entropy in nats a token.
    """

    reward: float
    reward_parts: Mapping[str, float]
    entropy: float
    finished: float
    zero_variance_groups: float  # fraction of the groups whose rewards are all equal
    trajectories: int
    failed: int  # trajectories without a reward, counted and left out of the rest

    @classmethod
    def of(cls, groups: Sequence[Group]) -> GroupSummary:
        """Return the summary of a step's groups, of which at least one has a trajectory with a reward."""
        trajectories = [t for g in groups for t in g.trajectories]
        rewards = [r for g in groups for r in g.rewards]
        return cls(
            reward=sum(r.total for r in rewards) / len(rewards),
            reward_parts=_mean_parts([r.parts for r in rewards]),
            entropy=-sum(sum(t.logprobs) for t in trajectories) / max(1, sum(t.n_sampled for t in trajectories)),
            finished=sum(t.output is not None for t in trajectories) / len(trajectories),
            zero_variance_groups=sum(len({r.total for r in g.rewards}) <= 1 for g in groups) / len(groups),
            trajectories=len(trajectories),
            failed=sum(len(g.failed) for g in groups),
        )


def _mean_parts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each part over the trajectories whose reward has it: roles may have other parts."""
    names = dict.fromkeys(name for own in parts for name in own)
    given = {name: [own[name] for own in parts if name in own] for name in names}
    return {name: sum(values) / len(values) for name, values in given.items()}


def by_role(phase: str, groups: Sequence[Group]) -> dict[str, Metrics]:
    """Return summary and health of each role of a step; none where one alone has played, after which its phase is
    named: then those of the whole step are its own."""
    played = [group for group in groups if group.trajectories]
    roles = {role: [g for g in groups if g.role == role] for role in dict.fromkeys(g.role for g in played)}
    if [*roles] == [phase]:
        return {}
    return {role: {**asdict(GroupSummary.of(own)), **step_health(own)} for role, own in roles.items()}


@dataclass(frozen=True, slots=True)
class NoUpdate:
    """What a step without an optimizer step reports in place of UpdateStats."""

    kl: float | None = None
    grad_norm: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step: a line of metrics.jsonl."""

    round: int
    phase: str
    step: int
    summary: GroupSummary
    health: Metrics  # aslfast.metrics.health
    updates: Mapping[str, UpdateStats]  # by adapter: of one in most phases, of none where nothing was learnt
    weight_sync: Metrics  # of the check after the update
    counters: StepCounters
    prefix_cache: Mapping[str, PrefixCacheCounts]  # by adapter
    seconds: float
    speed: Metrics  # RoundContext.speed
    by_role: Mapping[str, Metrics] = field(default_factory=dict)  # what the function `by_role` returns
    settings: Metrics = field(default_factory=dict)  # that schedules, or the run itself, have set

    @property
    def update(self) -> UpdateStats | NoUpdate:
        """The update of the first adapter."""
        return next(iter(self.updates.values()), NoUpdate())

    def as_json(self) -> dict[str, object]:
        """Return the record as one flat JSON object; what only some steps have comes last."""
        counters = self.counters
        others = {name: asdict(stats) for name, stats in [*self.updates.items()][1:]}
        tables = {
            "failed_checks": counters.failed_checks, "roles": self.by_role, "other_updates": others,
            "settings": dict(self.settings),
        }  # fmt: skip
        return {
            "round": self.round,
            "phase": self.phase,
            "step": self.step,
            **asdict(self.summary),
            **self.health,
            **asdict(self.update),
            **self.weight_sync,
            "sampled_tokens": counters.sampled_tokens,
            "tool_failed": counters.tool_failed,
            "verdicts_reused": counters.verdicts_reused / max(1, counters.verdicts),
            "prefix_cache": {name: asdict(stats) for name, stats in self.prefix_cache.items()},
            "tokens_per_s": counters.sampled_tokens / self.seconds,
            "seconds": self.seconds,
            **self.speed,
            **{name: table for name, table in tables.items() if table},
        }


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round, evaluated: a line of rounds.jsonl."""

    round: int
    scores: Metrics  # against the ground truth: aslfast.metrics.scoring
    seconds: float
    health: Metrics = field(default_factory=dict)  # means over the round's steps: aslfast.metrics.health
    alarms: Sequence[Mapping[str, object]] = ()

    def as_json(self) -> dict[str, object]:
        """Return the record as one flat JSON object."""
        head = {"round": self.round, **self.scores, "seconds": self.seconds}
        return {**head, **self.health, "alarms": list(self.alarms)}


class Observer:
    """Hears what a run does; this one ignores all of it. Subclass it and override what you want to see."""

    def setup(self, what: str) -> None:
        """Hear that `what` is being opened."""

    def adapted(self, what: str) -> None:
        """Hear which layers of the base have adapters."""

    def resumed(self, at: Position) -> None:
        """Hear where a resumed run goes on."""

    def step(self, record: StepRecord) -> None:
        """Hear of an optimizer step that is committed."""

    def evaluating(self, round_number: int) -> None:
        """Hear that the evaluation of a round starts."""

    def trajectory(self, sampled_tokens: int) -> None:
        """Hear of one more trajectory of an evaluation."""

    def tuned(self, step: int, total: int, loss: float) -> None:
        """Hear of a step of the phase "sft"."""

    def evaluated(self, record: RoundRecord) -> None:
        """Hear of a round that is evaluated and committed."""

    def warning(self, text: str) -> None:
        """Hear what a person should know."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a run: its round, the phases of that round that are done, and the steps done of the next one."""

    round: int
    phases_done: Sequence[str]
    phase_step: int
