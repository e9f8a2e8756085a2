"""The judge probe: the judge's verdicts on some of the policy's held-out answers, against the ground truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aslfast import rewards
from aslfast.config import RunConfig
from aslfast.core import Question, StopReason, Task, Trajectory
from aslfast.metrics.bootstrap import paired_difference
from aslfast.metrics.health import fraction
from aslfast.prompts.builder import PromptBuilder

LEAST_OF_A_KIND = 10  # right answers, and wrong ones: rates over fewer say nothing about a judge

Metrics = dict[str, float | list[float] | None]


@dataclass(frozen=True, slots=True)
class JudgedAttempt:
    """A held-out attempt: whether it is truly right, and the side that the judge takes ("correct", "wrong" or None).

    An attempt without an answer has no side, as it has no reward.
    """

    right: bool
    answered: bool
    side: str | None

    @property
    def passed(self) -> bool:
        """Whether the judge calls it correct."""
        return self.side == "correct"


@dataclass(frozen=True, slots=True)
class JudgeProbe:
    """One verdict on each of the first `monitor.judge_probe` attempts at the held-out questions."""

    config: RunConfig

    async def evaluate(
        self, attempts: Sequence[Trajectory], play: Callable[[Sequence[Task]], Awaitable[Sequence[Trajectory]]]
    ) -> Metrics:
        """Return the metrics of the judge. `play` returns a trajectory of each task, in order."""
        chosen = attempts[: self.config.monitor.judge_probe]
        answers = [(t, t.output) for t in chosen if t.output is not None]
        verdicts = await play([self._task(t, answer, i) for i, (t, answer) in enumerate(answers)])
        return judge_metrics(judged_attempts(chosen, verdicts, self.config.grm.variant), self.config.seed)

    def _task(self, attempt: Trajectory, answer: str, number: int) -> Task:
        """Return the task of judging an answer; of two judges each has every second one."""
        task, grm = attempt.task, self.config.grm
        fold = number % 2 + 1 if grm.folds > 1 else 0
        asked = Question(task.id, task.question, task.references, task.hops)
        builder = PromptBuilder(self.config.model.prompts, grm.variant)
        return builder.judge(f"probe-{task.id}", asked, answer, fold=fold)


def judged_attempts(
    attempts: Sequence[Trajectory], verdicts: Sequence[Trajectory], variant: str
) -> list[JudgedAttempt]:
    """Return the attempts with their verdicts, without those that the tool failed.

    verdicts: one for each attempt with an answer, in their order.
    """
    given = iter(verdicts)
    pairs = [(attempt, next(given) if attempt.output is not None else attempt) for attempt in attempts]
    return [
        JudgedAttempt(
            rewards.exact_match(attempt.output, attempt.task.references),
            attempt.output is not None,
            rewards.as_label(rewards.offered(verdict.output, variant)) if attempt.output is not None else None,
        )
        for attempt, verdict in pairs
        if verdict.stop is not StopReason.TOOL_FAILED
    ]


def judge_metrics(judged: Sequence[JudgedAttempt], seed: int) -> Metrics:
    """Return the judge's metrics against the ground truth; None where there are too few attempts to tell.

    judge_pass_rate J = passed / n, judge_probe_accuracy T = right / n, judge_truth_gap = J - T (from -1 to 1) with the
    interval of the paired bootstrap; agreement and bias of the verdicts on answers.
    """
    names = ("judge_pass_rate", "judge_probe_accuracy", "judge_truth_gap", "judge_truth_interval")
    rates: Metrics = dict.fromkeys(names)
    if judged:
        right, passed = [float(p.right) for p in judged], [float(p.passed) for p in judged]
        gap = paired_difference(right, passed, seed)
        values = sum(passed) / len(judged), sum(right) / len(judged), gap.value, [gap.low, gap.high]
        rates = dict(zip(names, values, strict=True))
    return {**rates, **_agreement([p for p in judged if p.answered]), "n_judge_probe": len(judged)}


def _agreement(answers: Sequence[JudgedAttempt]) -> dict[str, float | None]:
    """Return judge_agreement = (TPR + TNR) / 2 and verdict_bias = (TPR + FPR) / 2 - 1/2 of the verdicts.

    TPR, FPR: the fractions of right and of wrong answers that are called correct; TNR: of wrong ones called wrong.
    """
    right, wrong = [p for p in answers if p.right], [p for p in answers if not p.right]
    if min(len(right), len(wrong)) < LEAST_OF_A_KIND:
        return {"judge_agreement": None, "verdict_bias": None}
    true_positive, true_negative = fraction(p.passed for p in right), fraction(p.side == "wrong" for p in wrong)
    return {
        "judge_agreement": (true_positive + true_negative) / 2,
        "verdict_bias": (true_positive + fraction(p.passed for p in wrong)) / 2 - 0.5,
    }
