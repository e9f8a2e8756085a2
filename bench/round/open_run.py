"""A run as `train` starts it, opened before its first round and played round by round."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.context_limit import check_context, context_limit
from aslfast.rounds.commit import Checkpointer
from aslfast.rounds.context import RoundContext
from aslfast.rounds.records import Observer
from aslfast.rounds.round import run_round
from aslfast.rounds.task_context import TrainingData
from aslfast.systems.registry import phases_of
from aslfast.trainer.build import (
    build_rollout,
    build_sampler,
    build_search_tool,
    init_adapters,
    load_base_model,
    prepare_torch,
    weight_sync_check,
)
from aslfast.trainer.datasets import file_datasets
from aslfast.trainer.lab_datasets import lab_datasets
from aslfast.trainer.provenance import provenance_of
from bench.rollout.lengths import Lengths
from bench.rollout.long_tailed import LongTailed


class WarningPrinter(Observer):
    """Prints warnings."""

    def warning(self, text: str) -> None:
        """Print a warning."""
        log(text)


def log(text: str) -> None:
    """Print a line of progress."""
    print(f"bench_round: {text}", file=sys.stderr, flush=True)


@contextmanager
def open_run(config: RunConfig, folder: Path, lengths: Lengths | None = None) -> Iterator[RoundContext]:
    """Open a new run in `folder`. lengths: forced on its trajectories."""
    prepare_torch(config)
    base, tokenizer = load_base_model(config)
    check_context(context_limit(base.get_decoder().config), config.sampler.max_context)
    model = lora.add_adapters(base, config.lora.rank, config.lora.alpha, config.seed, config.adapters)
    initialised = init_adapters(model, config)
    learner = Learner(model, config.learner, config.loss, config.sampler.temperature, config.adapters)
    datasets = lab_datasets(config, folder / "lab") if config.data.lab else file_datasets(config)
    if lengths:
        tokenizer.eos_token = None
    with ExitStack() as stack:
        sampler = build_sampler(config, model, tokenizer, folder / "engine.log", log)
        stack.callback(sampler.close)
        sampler.start()
        rollout = build_rollout(config, sampler, tokenizer, build_search_tool(config, datasets.index))
        run, state = stack.enter_context(RunDir.create(folder / "run", config)), TrainState()
        context = RoundContext(
            config, state, learner, LongTailed(**vars(rollout), lengths=lengths) if lengths else rollout,
            TrainingData(datasets.topics, datasets.labelled, datasets.train_oracle), phases_of(config),
            Checkpointer(run, state, learner),
            weight_sync_check(sampler, model, tokenizer, config), WarningPrinter(),
        )  # fmt: skip
        context.checkpointer.run_started(provenance_of(config), initialised)
        sampler.flush()
        context.check_weight_sync()
        yield context


def play_round(context: RoundContext, number: int) -> None:
    """Run one round; nothing is evaluated after it."""
    context.state.round, context.state.seconds = number, 0.0
    context.checkpointer.start_clock()
    asyncio.run(run_round(context))
