"""Supervised fine-tuning as the first phase of a run: one role learns from demonstrations, then the round goes on.

Its learner has an optimizer of its own and the temperature 1, as that of `aslfast sft`; the run's learner starts from
the adapter that it leaves, with empty moments, as from roles.<role>.init_adapter. Every rank takes the same steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from aslfast.config import RunConfig
from aslfast.config.schema import MOST_TOKENS, SFT
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.prompts.chat_template import Chat
from aslfast.rounds import replicas
from aslfast.rounds.context import RoundContext
from aslfast.rounds.records import Observer
from aslfast.trainer.datasets import Datasets
from aslfast.trainer.demos.make import DemonstrationMaker, LabelledQuestion
from aslfast.trainer.sft.learner import SupervisedLearner
from aslfast.trainer.sft.rows import SftRow, epoch_batches, usable
from aslfast.trainer.sft.settings import SftConfig, learning_rate
from aslfast.trainer.sft.sources import read_sft_rows


def sft_rows(
    config: RunConfig, learner: Learner, tokenizer: PreTrainedTokenizerBase, datasets: Datasets, observer: Observer
) -> Sequence[SftRow]:
    """Return what the phase learns from: the rows of a file, or demonstrations made now. Raise UserError for none."""
    wanted, limit = config.sft, learner.packed_model.limit
    if wanted.data:
        rows = read_sft_rows(Path(wanted.data), wanted.role, Chat(tokenizer, config.model.prompt_date))
    else:
        rows = _made(config, datasets)
    kept = usable(rows, limit.tokens if limit else MOST_TOKENS, 0.0, config.seed)
    for reason, count in kept.left_out.items():
        observer.warning(f"sft: {count} of {len(rows)} rows are left out: {reason}")
    return kept.train


def _made(config: RunConfig, datasets: Datasets) -> list[SftRow]:
    """Return demonstrations of the labelled questions. Raise UserError where there are none."""
    role, labelled = config.sft.role, [LabelledQuestion(question, None) for question in datasets.labelled]
    assert datasets.index is not None  # an environment of one's own needs sft.data
    made = DemonstrationMaker.open(config, datasets.index, (role,)).make(labelled, lambda _: None)
    if not made.trajectories:
        why = ", ".join(f"{reason} ({n})" for reason, n in made.left_out.most_common(3))
        raise UserError(f"sft: {len(labelled)} labelled questions gave no demonstration: {why}; set sft.data to a file")
    return [SftRow(trajectory, trajectory.task.question) for trajectory in made.trajectories]


@dataclass(frozen=True)
class SftPhase:
    """The phase of a run, with its rows. Each step is a commit; a resumed run goes on after the last one."""

    context: RoundContext
    rows: Sequence[SftRow]

    async def run(self) -> None:
        """Take the steps that are left, if any. Raise UserError without a finite gradient."""
        state, config = self.context.state, self._config()
        if (state.round, SFT) in state.phases_done:
            return
        learner = self._learner()
        epochs = range(config.epochs)
        batches = [b for n in epochs for b in epoch_batches(self.rows, config.batch_size, config.seed, n)]
        for batch in batches[learner.steps_done :]:
            await asyncio.sleep(0)  # where SIGINT and SIGTERM end the run
            loss = self._step(learner, batch, learning_rate(config, learner.steps_done, len(batches)))
            self.context.observer.tuned(learner.steps_done, len(batches), loss)
        self._close(learner)

    def _config(self) -> SftConfig:
        """Return the settings that `aslfast sft` has for the same: they make the order of the rows and the rates."""
        run, own = self.context.config, self.context.config.sft
        return SftConfig(
            run.model.path, own.data, own.role, lr=own.learning_rate, epochs=own.epochs, batch_size=own.batch_size,
            seed=run.seed,
        )  # fmt: skip

    def _learner(self) -> SupervisedLearner:
        """Return the phase's own learner, as it was at the last commit."""
        run, role, main = self.context.config, self.context.config.sft.role, self.context.learner
        settings = replace(run.learner, learning_rate=run.sft.learning_rate)
        learner = Learner(main.model, settings, run.loss, 1.0, (role,), main.ranks)
        self.context.checkpointer.restore_sft(learner, role)
        replicas.sync_learner(learner)
        return SupervisedLearner(learner, role, "lower sft.learning_rate, or set model.dtype to float32")

    def _step(self, learner: SupervisedLearner, batch: Sequence[SftRow], rate: float) -> float:
        line = learner.step_line(batch, rate)
        self.context.checkpointer.sft_step(learner.learner, learner.role, line)
        return line["loss"]

    def _close(self, learner: SupervisedLearner) -> None:
        """Hand the adapter over to the run's learner and the sampler, and commit it."""
        context, state = self.context, self.context.state
        context.learner.version[learner.role] = learner.steps_done
        context.rollout.sampler.flush()
        context.check_weight_sync()
        state.phases_done += ((state.round, SFT),)
        replicas.assert_replicas_in_sync(context.learner, state)
        context.checkpointer.sft_phase(learner.role)
