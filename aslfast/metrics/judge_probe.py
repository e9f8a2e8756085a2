"""The probe: the judge judges some of the policy's held-out answers, whose truth is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aslfast.config import RunConfig
from aslfast.core import Task, Trajectory
from aslfast.metrics.health import probe_figures, probed
from aslfast.prompts import role_tasks


@dataclass(frozen=True, slots=True)
class Probe:
    """Of the first `monitor.judge_probe` attempts at the held-out questions, one verdict each."""

    config: RunConfig

    async def figures(
        self, attempts: Sequence[Trajectory], play: Callable[[Sequence[Task]], Awaitable[Sequence[Trajectory]]]
    ) -> dict[str, Any]:
        chosen = attempts[: self.config.monitor.judge_probe]
        answers = [(t, t.output) for t in chosen if t.output is not None]
        verdicts = await play([self._task(t, answer, i) for i, (t, answer) in enumerate(answers)])
        return probe_figures(probed(chosen, verdicts, self.config.grm.variant), self.config.seed)

    def _task(self, attempt: Trajectory, answer: str, number: int) -> Task:
        """Of two judges each has every second answer."""
        task, grm = attempt.task, self.config.grm
        reference, fold = next(iter(task.references), ""), number % 2 + 1 if grm.folds > 1 else 0
        return role_tasks.grm_task(
            f"probe-{task.id}", task.question, answer, self.config.model.prompts, None, task.hops, grm.variant,
            reference, fold,
        )  # fmt: skip
