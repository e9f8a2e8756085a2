"""A fine-tuning from its settings to its adapter: open, train epoch by epoch, evaluate, save, resume."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from aslfast.checkpoint.commits import Provenance
from aslfast.checkpoint.run_dir import check_new_run_dir
from aslfast.config.bounds import MOST
from aslfast.config.schema import MOST_TOKENS
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import model_folder
from aslfast.models.context_limit import context_limit
from aslfast.prompts.chat_template import Chat
from aslfast.trainer.build import load_base_model, prepare_torch
from aslfast.trainer.forward_check import check_learner, probe_ids
from aslfast.trainer.provenance import compare, fingerprint, provenance_of
from aslfast.trainer.sft.folder import Line, SftFolder, SftStart, clear_on_error
from aslfast.trainer.sft.learner import SupervisedLearner
from aslfast.trainer.sft.rows import SftRow, SftRows, epoch_batches, usable
from aslfast.trainer.sft.settings import SftConfig, learning_rate
from aslfast.trainer.sft.sources import read_sft_rows

SAVE_EVERY_S = 60.0


class SftObserver:
    """Hears what a fine-tuning does; this one ignores all of it."""

    def setup(self, what: str) -> None:
        """Hear that `what` is being opened."""

    def started(self, done: int, total: int) -> None:
        """Hear how many of the steps in all are done."""

    def step(self, line: Line, tokens: int) -> None:
        """Hear of a step, its line of metrics.jsonl, and how many tokens its rows have."""

    def epoch(self, line: Line) -> None:
        """Hear of an epoch's line of epochs.jsonl."""

    def warning(self, text: str) -> None:
        """Hear what a person should know."""


@dataclass
class _Parts:
    """An opened fine-tuning."""

    config: SftConfig
    learner: SupervisedLearner
    rows: SftRows

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.rows.train) // self.config.batch_size)

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.epoch_steps


def sft(config: SftConfig, out: Path, observer: SftObserver, save_every_s: float = SAVE_EVERY_S) -> dict[str, object]:
    """Train an adapter into the new folder `out`; return a summary. Raise UserError before anything is written.

    A fine-tuning that is stopped or killed can be resumed.
    """
    check_new_run_dir(out)
    config = replace(config, prompt_date=config.prompt_date or date.today().isoformat())
    if config.init_adapter:
        rank, alpha = lora.adapter_shape(Path(config.init_adapter))
        config = replace(config, rank=rank, alpha=alpha)
    inputs, parts, existed = _inputs(config), _open_parts(config, observer), out.exists()
    software, rows = provenance_of(config.run_config()).software, parts.rows
    start = SftStart(config, inputs, software, len(rows.train), len(rows.dev), rows.left_out)
    folder = SftFolder.create(out, start)
    clear_on_error(folder, existed, lambda: _train(parts, folder, observer, save_every_s))
    return _summary(start, folder)


def resume_sft(out: Path, observer: SftObserver, save_every_s: float = SAVE_EVERY_S) -> dict[str, object]:
    """Go on with a fine-tuning, to the same bits as without the interruption; return its summary. Raise UserError."""
    folder, start = SftFolder.resume(out)
    try:
        if folder.finished:
            folder.tidy()
            folder.read_lines(MOST)
            observer.warning(f"{out}: finished, all {start.config.epochs} epochs; nothing to go on with")
        else:
            parts = _open_parts(start.config, observer)
            now = Provenance(_inputs(start.config), provenance_of(start.config.run_config()).software)
            for text in compare(Provenance(start.inputs, start.software), now):
                observer.warning(text)
            folder.restore(parts.learner.learner, start.config.role)
            _train(parts, folder, observer, save_every_s)
        return _summary(start, folder)
    finally:
        folder.close()


def _inputs(config: SftConfig) -> dict[str, str]:
    """Return the checksums of what is read, by option. Raise UserError."""
    places = {"--model": model_folder(config.model), "--data": Path(config.data)}
    if config.init_adapter:
        places["--init-adapter"] = Path(config.init_adapter)
    return {option: fingerprint(place) for option, place in places.items()}


def _open_parts(config: SftConfig, observer: SftObserver) -> _Parts:
    run = config.run_config()
    prepare_torch(run)
    observer.setup("base model")
    model, tokenizer = load_base_model(run)
    observer.setup("data")
    read = read_sft_rows(Path(config.data), config.role, Chat(tokenizer, config.prompt_date))
    limit = context_limit(model.get_decoder().config)
    rows = usable(read, limit.tokens if limit else MOST_TOKENS, config.dev_fraction, config.seed)
    peft_model = lora.add_adapters(model, config.rank, config.alpha, config.seed, (config.role,))
    if config.init_adapter:
        lora.load_adapter(peft_model, config.role, Path(config.init_adapter))
    learner = Learner(peft_model, run.learner, run.loss, 1.0, (config.role,))
    check_learner(learner, probe_ids(peft_model, tokenizer, run.model.prompts))
    return _Parts(config, SupervisedLearner(learner, config.role), rows)


def _train(parts: _Parts, folder: SftFolder, observer: SftObserver, save_every_s: float) -> None:
    """Train from the learner's step on, and write the adapter."""
    config, learner = parts.config, parts.learner
    observer.started(learner.steps_done, parts.total_steps)
    if not learner.steps_done:
        _close_epoch(parts, folder, observer)
    for epoch in range(learner.steps_done // parts.epoch_steps, config.epochs):
        batches = epoch_batches(parts.rows.train, config.batch_size, config.seed, epoch)
        saved = time.monotonic()
        for batch in batches[learner.steps_done - epoch * parts.epoch_steps :]:
            _step(parts, folder, observer, batch)
            if len(batches) * (epoch + 1) == learner.steps_done:
                _close_epoch(parts, folder, observer)
            elif time.monotonic() - saved < save_every_s:
                continue
            folder.save(learner.learner, config.role)
            saved = time.monotonic()
    folder.finish(learner.learner, config.role)


def _step(parts: _Parts, folder: SftFolder, observer: SftObserver, batch: list[SftRow]) -> None:
    rate = learning_rate(parts.config, parts.learner.steps_done, parts.total_steps)
    line = parts.learner.step_line(batch, rate)
    folder.add_step(line)
    observer.step(line, int(line["tokens"]))


def _close_epoch(parts: _Parts, folder: SftFolder, observer: SftObserver) -> None:
    """Evaluate, and record the epoch; number 0 is before the first step."""
    done = parts.learner.steps_done
    line: Line = {"epoch": done // parts.epoch_steps, "step": done}
    if done:
        losses = [(step["loss"], step["loss_tokens"]) for step in folder.steps[-parts.epoch_steps :]]
        line["train_loss"] = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    if parts.rows.dev:
        dev = parts.learner.evaluate(parts.rows.dev)
        line |= {"dev_loss": dev.loss, "dev_token_accuracy": dev.accuracy}
    folder.add_epoch(line)
    observer.epoch(line)


def _summary(start: SftStart, folder: SftFolder) -> dict[str, object]:
    tokens, seconds = (sum(line[key] for line in folder.steps) for key in ("tokens", "seconds"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "out": str(folder.path), "role": start.config.role, "rows": start.rows, "dev_rows": start.dev_rows,
        "left_out": start.left_out, "steps": len(folder.steps), "epochs": folder.epochs, "tokens": tokens,
        "tokens_per_s": tokens / max(seconds, 1e-9), "seconds": seconds, "peak_memory_gb": peak / 1e9,
    }  # fmt: skip
