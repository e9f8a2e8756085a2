"""Train from a configuration: open base, adapters, learner, datasets and sampler, then play round after round."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from aslfast.checkpoint.base_run_dir import BaseRunDir
from aslfast.checkpoint.null_run_dir import NullRunDir
from aslfast.checkpoint.run_dir import LEDGER, RunDir, check_new_run_dir, read_run_config, resume_command
from aslfast.checkpoint.state import TrainState
from aslfast.config import RunConfig
from aslfast.config.own_parts import check_own_parts
from aslfast.config.schema import SFT
from aslfast.distributed.process_group import ProcessGroup, init_process_group
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.models.base_weights import BaseWeights
from aslfast.models.context_limit import check_context, context_limit
from aslfast.rounds import replicas
from aslfast.rounds.commit import Checkpointer
from aslfast.rounds.context import RoundContext
from aslfast.rounds.phase import Phase
from aslfast.rounds.records import Observer, Position
from aslfast.rounds.task_context import TrainingData
from aslfast.systems.registry import phases_of
from aslfast.trainer.build import (
    build_rollout,
    build_sampler,
    build_tools,
    check_tools_fit,
    init_adapters,
    load_base_model,
    prepare_torch,
    weight_sync_check,
)
from aslfast.trainer.datasets import Datasets, file_datasets, own_datasets
from aslfast.trainer.forward_check import check_learner, probe_ids
from aslfast.trainer.lab_datasets import lab_datasets
from aslfast.trainer.provenance import check_config, compare, provenance_of, updated
from aslfast.trainer.round_loop import play_rounds
from aslfast.trainer.sft.phase import SftPhase, sft_rows
from aslfast.trainer.tracking.backends import check_installed
from aslfast.trainer.tracking.follow import tracked


def train(config: RunConfig, out: str | Path, observer: Observer | None = None) -> Path:
    """Run the whole recipe into the new folder `out`. Raise UserError for bad input before anything is written.

    An error before round 0 is evaluated removes everything. A run that is stopped or killed can be resumed.
    """
    folder, observer = Path(out), observer or Observer()
    with init_process_group(resume_command(folder)) as ranks:
        if ranks.restarted and ranks.broadcast(b"1" if (folder / LEDGER).exists() else b""):
            _resume(folder, observer, ranks)
        else:
            _train(replicas.broadcast_config(ranks, lambda: _dated(config)), folder, observer, ranks)
    return folder


def _dated(config: RunConfig) -> RunConfig:
    """Return the configuration with the date that chat templates show: a resume on another day shows the same."""
    day = config.model.prompt_date or date.today().isoformat()
    return replace(config, model=replace(config.model, prompt_date=day))


def _train(config: RunConfig, folder: Path, observer: Observer, ranks: ProcessGroup) -> None:
    if ranks.is_rank_zero:
        check_new_run_dir(folder)
    parts = _open_parts(config, observer, ranks)
    existed = folder.exists()
    with RunDir.create(folder, config) if ranks.is_rank_zero else NullRunDir() as run:
        try:
            _continue(config, parts, run, observer)
        except Exception:
            if not run.evaluated:
                _clear(folder, existed)
            raise


def resume(run: str | Path, observer: Observer | None = None) -> Path:
    """Resume a run from its last commit, with the same results as without the interruption. Raise UserError.

    The same bits on the same processor, software and number of threads, with the local sampler. A finished run has
    nothing left to do.
    """
    folder = Path(run)
    with init_process_group(resume_command(folder)) as ranks:
        _resume(folder, observer or Observer(), ranks)
    return folder


def _resume(folder: Path, observer: Observer, ranks: ProcessGroup) -> None:
    config = replicas.broadcast_config(ranks, lambda: read_run_config(folder))
    with RunDir.resume(folder) if ranks.is_rank_zero else NullRunDir() as run:
        for warning in [*run.warnings, *check_config(run.provenance, config, folder)]:
            observer.warning(warning)
        if ranks.broadcast(b"1" if run.is_finished(config.rounds) else b""):
            run.finish()
            observer.warning(f"{folder}: finished, all {config.rounds} rounds; nothing to go on with")
        else:
            _continue(config, _open_parts(config, observer, ranks), run, observer)


def _clear(folder: Path, keep: bool) -> None:
    """Leave `folder` as it was before: missing or, with `keep`, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    if keep:
        folder.mkdir(exist_ok=True)


@dataclass(frozen=True)
class _Parts:
    """What is opened before anything is written. The lab's datasets are generated in the run's folder, later."""

    learner: Learner
    tokenizer: PreTrainedTokenizerBase
    datasets: Datasets | None  # None: the lab's
    initialised: list[str]  # adapters that start from one of another run
    phases: list[Phase]


def _open_parts(config: RunConfig, observer: Observer, ranks: ProcessGroup) -> _Parts:
    check_own_parts(config)
    check_installed(config.tracker)
    phases = phases_of(config)
    prepare_torch(config)
    observer.setup("data")
    datasets = _open_datasets(config, observer)
    observer.setup("base model")
    model, tokenizer = load_base_model(config, ranks)
    check_context(context_limit(model.get_decoder().config), config.sampler.max_context)
    check_tools_fit(config, tokenizer)
    peft_model = lora.add_adapters(model, config.lora.rank, config.lora.alpha, config.seed, config.adapters)
    initialised = init_adapters(peft_model, config)
    if ranks.model_parallel_size > 1:
        BaseWeights(peft_model, model_folder(config.model.path)).shard(ranks)
    learner = Learner(peft_model, config.learner, config.loss, config.sampler.temperature, config.adapters, ranks)
    learner.settle(config)
    observer.setup(f"learner, attention by {learner.attention}")
    observer.adapted(lora.describe_targets(peft_model))
    ranks.barrier()  # an error on any rank ends all of them before anything is written
    return _Parts(learner, tokenizer, datasets, initialised, phases)


def _open_datasets(config: RunConfig, observer: Observer) -> Datasets | None:
    if config.environment:
        return own_datasets(config, observer.warning)
    return None if config.data.lab else file_datasets(config)


def _continue(config: RunConfig, parts: _Parts, run: BaseRunDir, observer: Observer) -> None:
    """Train from the run's last commit, or from the start if there is none."""
    with run.writing():
        datasets = parts.datasets or lab_datasets(config, run.path / "lab")
    learner, ranks = parts.learner, parts.learner.ranks
    rows = sft_rows(config, learner, parts.tokenizer, datasets, observer) if _awaits_sft(config, run) else ()
    sampler = build_sampler(config, learner.model, parts.tokenizer, run.path / "engine.log", observer.warning, ranks)
    with closing(sampler):
        if config.sampler.kind == "sglang" and ranks.is_group_leader:
            observer.setup("the SGLang engine")
        sampler.start()
        # only now: an engine may have brought the weights
        check_learner(learner, probe_ids(learner.model, parts.tokenizer, config.model.prompts))
        environment = datasets.environment
        state = TrainState(environment=environment.saved_state() if environment else "")
        tool = build_tools(config, datasets.index)
        context = RoundContext(
            config, state, learner,
            build_rollout(config, sampler, parts.tokenizer, tool, environment),
            TrainingData(datasets.topics, datasets.labelled, datasets.train_oracle, environment), parts.phases,
            Checkpointer(run, state, learner),
            weight_sync_check(sampler, learner.model, parts.tokenizer, config, ranks), observer,
        )  # fmt: skip
        _start_or_resume(context, parts.initialised)
        replicas.sync_initial_state(learner, state, provenance_of(config).inputs)
        if environment:
            environment.restore_saved(state.environment)
        context.serve()
        with tracked(config, run, observer.warning):
            play_rounds(context, datasets, SftPhase(context, rows) if rows else None)
    run.finish()


def _awaits_sft(config: RunConfig, run: BaseRunDir) -> bool:
    """Return whether the phase "sft" is to be run, or gone on with."""
    state = TrainState()
    run.restore(state)
    return SFT in config.phases and state.round <= 1 and (1, SFT) not in state.phases_done


def _start_or_resume(context: RoundContext, initialised: list[str]) -> None:
    """On rank 0, commit the start of a new run, or restore the last commit of a resumed one."""
    ranks, run, state = context.learner.ranks, context.checkpointer.run, context.state
    if not ranks.is_rank_zero:
        return
    provenance = provenance_of(context.config, ranks.size)
    if not run.provenance.software:
        context.checkpointer.run_started(provenance, initialised)
        return
    for text in compare(run.provenance, provenance):
        context.observer.warning(text)
    run.new_provenance = updated(run.provenance, provenance)
    context.checkpointer.resume()
    done = [role for number, role in state.phases_done if number == state.round]
    context.observer.resumed(Position(state.round, done, state.phase_step))
