"""B-STaR (arXiv 2412.17256; hkust-nlp/B-STaR@a0f5d95): fine-tuning on one's own best samples, its two knobs re-tuned.

A sample scores [answer is right] + judge / 5, the judge's verdict on it 1 (correct) or -1 (wrong, or unreadable); those
above the threshold are kept, without repetitions and best first, and learnt by likelihood. After each round temperature
and threshold become those of the best mean balance on questions held back:

    balance of a question = min(c / 8, 1) c / n        c: distinct right samples kept; n: samples kept; 0 where n is 0

We differ: a judge's verdict on the whole takes the place of the smallest step score of a process reward model; each
step learns from the samples of its own questions, so `keep` is by question; the first round has the recipe's knobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aslfast.phase import (
    Control,
    Group,
    OwnPhase,
    Play,
    Played,
    Question,
    Reward,
    RewardOf,
    RunConfig,
    Task,
    TaskContext,
    Trajectory,
)
from aslfast.rewards import exact_match, normalize

FULL = 8  # distinct right samples of a question that are enough: the paper's n*
STEP_WEIGHT = 0.2
KEY = "own_phase.BStar.options.threshold"


@dataclass
class HeldBack:
    """What the knobs are tuned on: questions that are not learnt from."""

    questions: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class ScoredSample:
    """One sample of a question: what it said, whether that was right, and its score."""

    output: str
    right: bool
    score: float


def score(right: bool, verdict: str | None) -> float:
    """Return a sample's score, from -0.2 to 1.2."""
    return float(right) + STEP_WEIGHT * (1.0 if verdict == "correct" else -1.0)


def balance(samples: Sequence[ScoredSample], threshold: float) -> float:
    """Return the balance of a question's samples of which those above the threshold are kept."""
    kept = [sample for sample in samples if sample.score > threshold]
    right = len({normalize(sample.output) for sample in kept if sample.right})
    return min(right / FULL, 1.0) * right / len(kept) if kept else 0.0


def best_knobs(found: dict[float, list[list[ScoredSample]]], thresholds: Sequence[float]) -> tuple[float, float]:
    """Return temperature and threshold of the best mean balance, the first of equal ones."""

    def mean(temperature: float, threshold: float) -> float:
        asked = found[temperature]
        return sum(balance(samples, threshold) for samples in asked) / len(asked)

    return max(((t, h) for t in found for h in thresholds), key=lambda knobs: mean(*knobs))


def grid(low: float, high: float, step: float) -> list[float]:
    """Return low, low + step, ..., up to high."""
    return [round(low + i * step, 6) for i in range(math.floor((high - low) / step + 1e-9) + 1)]


def kept_samples(group: Group, threshold: float, keep: int) -> Group | None:
    """Return a question's samples above the threshold, without repetitions, best first, at most `keep`; None: none."""
    played = list(zip(group.trajectories, group.rewards, strict=True))
    best = sorted((pair for pair in played if pair[1].total > threshold), key=lambda pair: -pair[1].total)
    distinct: dict[tuple[int, ...], tuple[Trajectory, Reward]] = {}
    for pair in best:
        distinct.setdefault(pair[0].token_ids, pair)
    return Group.of(list(distinct.values())[:keep]) if distinct else None


@dataclass(frozen=True)
class BStarOptions:
    """keep: samples a question. held_back: questions to tune on; tries: samples of each; judge: the judge's prompt for
    them. The grids of both knobs go from low to high in such steps."""

    threshold: float
    keep: int
    held_back: int
    tries: int
    judge: str
    temperature_low: float
    temperature_high: float
    temperature_step: float
    threshold_low: float
    threshold_high: float
    threshold_step: float

    @property
    def temperatures(self) -> list[float]:
        """Those that are tried."""
        return grid(self.temperature_low, self.temperature_high, self.temperature_step)

    @property
    def thresholds(self) -> list[float]:
        """Those that are tried."""
        return grid(self.threshold_low, self.threshold_high, self.threshold_step)


class BStar(OwnPhase):
    """The policy answers, a frozen judge reads it, and the best samples are learnt."""

    roles = ("policy", "grm")

    def __init__(self, config: RunConfig, options: Mapping[str, object]) -> None:
        super().__init__(config, options)
        self.state = HeldBack()

    def tasks(self, context: TaskContext) -> Sequence[Question | str]:
        self.state.questions = list(context.data.real_questions[: self.options_as(BStarOptions).held_back])
        return context.data.real_questions[len(self.state.questions) :]

    async def play(self, play: Play, task: Task) -> Sequence[Trajectory]:
        answered = await play.act("policy", question=task.question)
        if answered.output is None:
            return (answered,)
        return answered, await play.act("grm", question=task.question, answer=answered.output)

    def rewards(self, task: Task, plays: Sequence[Played]) -> Sequence[Sequence[RewardOf]]:
        return [list(_rewarded(acts)) for acts in plays]

    async def learn_from(self, control: Control, groups: Sequence[Group]) -> Sequence[Group]:
        options = self.options_as(BStarOptions)
        kept = [kept_samples(group, options.threshold, options.keep) for group in groups if group.role == "policy"]
        return [group for group in kept if group]

    async def after_phase(self, control: Control) -> None:
        """Try each temperature on the questions held back, and set the best pair of knobs."""
        options = self.options_as(BStarOptions)
        found = {
            temperature: await self._samples(control.trying("sampler.temperature", temperature))
            for temperature in options.temperatures
        }
        temperature, threshold = best_knobs(found, options.thresholds)
        control.set("sampler.temperature", temperature)
        control.set(KEY, threshold)

    async def _samples(self, control: Control) -> list[list[ScoredSample]]:
        """Return the samples of each question held back, judged."""
        asked, options = self.state.questions, self.options_as(BStarOptions)
        answered = await control.sample("policy", asked, n=options.tries)
        said = [act for acts in answered for act in acts if act.output is not None]
        judged = await control.sample("grm", [_judged(i, act) for i, act in enumerate(said)], options.judge)
        verdicts = {id(act): verdict.output for act, (verdict,) in zip(said, judged, strict=True)}
        return [[_sample(act, verdicts[id(act)]) for act in acts if act.output is not None] for acts in answered]


def _rewarded(acts: Played) -> Iterator[RewardOf]:
    answered, verdict = acts[0], acts[1].output if len(acts) > 1 else None
    right = exact_match(answered.output, answered.task.references)
    yield {"right": float(right), "judge": score(right, verdict) - right}
    yield from [None] * (len(acts) - 1)


def _sample(act: Trajectory, verdict: str | None) -> ScoredSample:
    right = exact_match(act.output, act.task.references)
    return ScoredSample(act.output or "", right, score(right, verdict))


def _judged(number: int, act: Trajectory) -> Question:
    """Return what the judge is asked about an answer: both texts fill the one gap of its prompt."""
    return Question(str(number), f"{act.task.question} answer: {act.output}")
