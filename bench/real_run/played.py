"""Evaluations: the policy, and the judge, play the first questions of a split; a row of JSON for each trajectory.

Rows are written in chunks, complete or not at all, each played on an empty cache: an evaluation that was killed goes on
with the next chunk, to the same rows.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from aslfast.cli.progress import Meter, quiet_libraries
from aslfast.config import RunConfig
from aslfast.core import Question, Task, Trajectory
from aslfast.data.trajectories import conversation
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import read_lines
from aslfast.metrics.health import queries_of
from aslfast.metrics.scoring import question_scores
from aslfast.models import lora
from aslfast.prompts.builder import PromptBuilder
from aslfast.retrieval.retriever import AnyIndex, open_index
from aslfast.rewards.distractors import plausible_wrong
from aslfast.rollout.multi_turn import stable_seed
from aslfast.trainer.build import build_rollout, build_sampler, build_tools, load_base_model, prepare_torch
from aslfast.trainer.datasets import policy_evals
from aslfast.trainer.demos.make import LabelledQuestion
from aslfast.trainer.evaluation import Evaluation
from bench.real_run.ceilings import finds_gold

CHUNK = 64  # trajectories
POLICY, JUDGE, PROBE = "policy", "judge", "probe"  # names of the files
Row: TypeAlias = dict[str, Any]  # the JSON edge


@dataclass
class Players:
    """A model with the adapters of some roles, opened when it is first needed: all may have been played before."""

    config: RunConfig
    adapters: Mapping[str, Path]
    index: AnyIndex
    meter: Meter

    @cached_property
    def _evaluation(self) -> Evaluation:
        """Return the evaluation, as `aslfast eval` has it: same seeds, same limits."""
        config, roles = self.config, tuple(self.adapters)
        prepare_torch(config)
        model, tokenizer = load_base_model(config)
        if roles:
            model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed, roles)
            for role in roles:
                lora.load_adapter(model, role, self.adapters[role])
        sampler = build_sampler(config, model, tokenizer)
        sampler.start()
        return Evaluation(
            build_rollout(config, sampler, tokenizer, build_tools(config, self.index)),
            stable_seed(config.seed, "evaluation"), 2 * config.sampler.max_running_requests, bool(roles),
            done=lambda trajectory: self.meter.advance(1, trajectory.n_sampled),
        )  # fmt: skip

    def rows(self, tasks: Sequence[Task], file: Path, row_of: Callable[[Task, Trajectory], Row]) -> list[Row]:
        """Return a row for each task, in order; chunks that are in the files FILE-NNN.jsonl are read, not played."""
        found: list[Row] = []
        for start in range(0, len(tasks), CHUNK):
            chunk, part = tasks[start : start + CHUNK], file.with_name(f"{file.name}-{start // CHUNK:03d}.jsonl")
            if not part.exists():
                self._evaluation.rollout.sampler.flush()
                played = asyncio.run(self._evaluation.play(chunk))
                rows = [row_of(task, trajectory) for task, trajectory in zip(chunk, played, strict=True)]
                write_text(part, "".join(json.dumps(row) + "\n" for row in rows))
            else:
                self.meter.advance(len(chunk))
                self.meter.restart()
            found += read_lines(part)
        return found


# one parameter a thing that an evaluation needs
def evaluate(
    config: RunConfig, adapters: Mapping[str, Path], asked: Sequence[LabelledQuestion], n_judged: int, out: Path,
    title: str,
) -> None:  # fmt: skip
    """Write the rows of an evaluation to a folder; those of the judge where it has an adapter. Raise UserError.

    judge: verdicts on a right and on a plausible wrong answer to each of the first `n_judged` questions; probe: on the
    policy's own answers to them.
    """
    quiet_libraries()
    judged, questions = "grm" in adapters, [each.question for each in asked]
    index, golds = open_index(config.data.index), {each.question.id: each.gold for each in asked}
    total = len(questions) + judged * 3 * n_judged
    out.mkdir(parents=True, exist_ok=True)
    with Meter(title, total, "trajectories") as meter:
        players = Players(config, adapters, index, meter)
        row_of = partial(_policy_row, index, golds, config.tool.top_k)
        answered = players.rows(policy_evals(questions, config.model.prompts), out / POLICY, row_of)
        if judged:
            builder = PromptBuilder(config.model.prompts, config.grm.variant)
            players.rows(_both_answers(builder, questions, n_judged, config.seed), out / JUDGE, _judge_row)
            players.rows(_own_answers(builder, questions[:n_judged], answered[:n_judged]), out / PROBE, _judge_row)


def read_rows(folder: Path, kind: str) -> list[Row]:
    """Return the rows of an evaluation, in order; none where it has none of the kind."""
    return [row for part in sorted(folder.glob(f"{kind}-*.jsonl")) for row in read_lines(part)]


# the first three are the same for all rows
def _policy_row(
    index: AnyIndex, golds: Mapping[str, str | None], top_k: int, task: Task, trajectory: Trajectory
) -> Row:
    id_, queries = task.id.removeprefix("eval-"), queries_of(trajectory)
    scores = {name: values[0] for name, values in question_scores([trajectory]).items()}
    return {
        "id": id_, "question": task.question, "references": list(task.references), "output": trajectory.output,
        "stop": trajectory.stop.value, "queries": queries, **scores, "tokens": trajectory.n_sampled,
        "entropy": -sum(trajectory.logprobs) / max(1, trajectory.n_sampled),
        "gold_found": finds_gold(index, [queries], [golds[id_]], top_k)[0], "conversation": conversation(trajectory),
    }  # fmt: skip


def _judge_row(task: Task, trajectory: Trajectory) -> Row:
    verdict = {"verdict": trajectory.output, "stop": trajectory.stop.value}
    return {"id": task.id.partition("-")[2], "label": task.references[0], **verdict, "prompt": task.prompt}


def _both_answers(builder: PromptBuilder, questions: Sequence[Question], n_judged: int, seed: int) -> list[Task]:
    """Return the tasks of judging a right and a plausible wrong answer to each question; none without a wrong one."""
    others = [(question.text, question.reference) for question in questions]
    tasks = []
    for question in questions[:n_judged]:
        rng = random.Random(stable_seed(seed, "judged", question.id))
        wrong = plausible_wrong(question.text, question.references, others, rng)
        answers = {"correct": rng.choice(question.references), "wrong": wrong} if wrong is not None else {}
        tasks += [builder.judge(f"{label}-{question.id}", question, said, label) for label, said in answers.items()]
    return tasks


def _own_answers(builder: PromptBuilder, questions: Sequence[Question], answered: Sequence[Row]) -> list[Task]:
    """Return the tasks of judging the policy's answers, where it gave any, labelled by exact match."""
    return [
        builder.judge(f"probe-{question.id}", question, row["output"], "correct" if row["em"] else "wrong")
        for question, row in zip(questions, answered, strict=True)
        if row["output"] is not None
    ]
