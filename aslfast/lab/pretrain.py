"""Trains the tiny base, which knows the formats and is mediocre at every role.

Three things make minutes enough: Muon on the matrices (Jordan 2024, in torch.optim), small batches, and attention heads
that start out looking at the previous tokens (model_init.py).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from aslfast.checkpoint.run_dir import check_new_run_dir
from aslfast.lab.curriculum import STAGES, ExampleStream, Stage
from aslfast.lab.examples import Example
from aslfast.lab.model_init import make_model
from aslfast.lab.tokenizer import make_tokenizer
from aslfast.prompts.chat_template import Chat

BATCH_TOKENS = 2000
MICRO_BATCHES = 3  # of a batch
LOSS_FRACTION = 0.3  # of a batch's tokens that carry loss, about: the constant that the loss is divided by

MicroBatch = list[Example]
Report = Callable[[str, int, int, float], None]  # stage, tokens done, tokens in all, loss


@dataclass(frozen=True, slots=True)
class Course:
    """What a base learns: its vocabulary, the stages, and the examples of a stage, by a seed, in a scratch folder."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    stages: Sequence[Stage]
    examples: Callable[[Chat, Stage, int, Path], Iterable[Example]]
    dtype: torch.dtype = torch.float32  # of the weights in the file


COURSE = Course(make_tokenizer, STAGES, ExampleStream)


def batches(examples: Iterator[Example], tokens: int) -> Iterator[list[MicroBatch]]:
    """Yield batches of about `tokens`, each of micro-batches of similar lengths, drawn from all lengths alike."""
    rng = random.Random(0)
    while True:
        pending: MicroBatch = []
        while sum(len(example.token_ids) for example in pending) < 8 * tokens:
            pending.append(next(examples))
        pending.sort(key=lambda example: len(example.token_ids))
        found: list[MicroBatch] = [[]]
        for example in pending:
            if (len(found[-1]) + 1) * len(example.token_ids) > tokens / MICRO_BATCHES * 1.1 and found[-1]:
                found.append([])
            found[-1].append(example)
        rng.shuffle(found)
        yield from (found[i : i + MICRO_BATCHES] for i in range(0, len(found), MICRO_BATCHES))


def padded(examples: MicroBatch, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids_BT and weights_BT, right-padded; causal attention never looks at the padding."""
    length = max(len(example.token_ids) for example in examples)
    ids_BT = torch.full((len(examples), length), pad_id)
    weights_BT = torch.zeros(len(examples), length)
    for i, example in enumerate(examples):
        ids_BT[i, : len(example.token_ids)] = torch.tensor(example.token_ids)
        weights_BT[i, : len(example.token_ids)] = torch.tensor(example.weights)
    return ids_BT, weights_BT


def loss_of(model: Qwen2ForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor, constant: float) -> torch.Tensor:
    """Return the weighted cross-entropy, summed and divided by a constant: a token weighs the same in any example."""
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    loss_BT = weights_BT[:, 1:] > 0
    logits_TV = hidden_BTD[loss_BT] @ model.lm_head.weight.T
    losses_T = torch.nn.functional.cross_entropy(logits_TV, ids_BT[:, 1:][loss_BT], reduction="none")
    return (losses_T * weights_BT[:, 1:][loss_BT]).sum() / constant


class Optimizers:
    """Muon on the matrices, AdamW on the rest; the embedding's rate is larger since its variance is 1, not 1/d."""

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        embedding = model.model.embed_tokens.weight
        matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
        vectors = [p for p in model.parameters() if p.ndim != 2]
        muon = torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0)
        groups = [{"params": [embedding], "lr": 3e-2}, {"params": vectors, "lr": 3e-3}]
        self.parts = (muon, torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0))
        self.groups = [(group, group["lr"]) for part in self.parts for group in part.param_groups]

    def step(self, lr_scale: float) -> None:
        """Take a step with all learning rates scaled."""
        for group, rate in self.groups:
            group["lr"] = rate * lr_scale
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)


def train_stage(
    model: Qwen2ForCausalLM, optimizers: Optimizers, stage: Stage, stream: Iterator[list[MicroBatch]],
    report: Callable[[int, float], None],
) -> None:  # fmt: skip
    """Train through one stage. report: called after each step with the tokens so far and the loss."""
    pad_id: Any = model.config.pad_token_id
    seen = 0
    while seen < stage.tokens:
        left = 1 - seen / stage.tokens
        loss = 0.0
        for examples in next(stream):
            ids_BT, weights_BT = padded(examples, pad_id)
            part = loss_of(model, ids_BT, weights_BT, constant=BATCH_TOKENS * LOSS_FRACTION)
            part.backward()
            loss += float(part.detach())
            seen += sum(len(example.token_ids) for example in examples)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(stage.lr_scale * min(1.0, left / stage.decay_fraction) + 1e-4)
        report(seen, loss)


def train_base(out: str | Path, seed: int = 0, report: Report = lambda *_: None, course: Course = COURSE) -> Path:
    """Train the base and write it to the new folder `out` as safetensors, with its tokenizer.

    The same seed, torch and processor give the same bytes. Raise UserError if `out` holds anything.
    """
    folder = Path(out)
    check_new_run_dir(folder)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores
    tokenizer = course.tokenizer()
    chat, model = Chat(tokenizer), make_model(tokenizer, seed).train()
    optimizers, total, done = Optimizers(model), sum(stage.tokens for stage in course.stages), 0
    with tempfile.TemporaryDirectory() as scratch:
        for stage in course.stages:

            def report_stage(seen: int, loss: float, stage: Stage = stage, before: int = done) -> None:
                report(stage.name, min(before + seen, total), total, loss)

            stream = batches(iter(course.examples(chat, stage, seed, Path(scratch))), BATCH_TOKENS)
            train_stage(model, optimizers, stage, stream, report_stage)
            done += stage.tokens
    model.to(course.dtype)  # pyright: ignore[reportArgumentType]  # transformers' decorator hides the signature
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
