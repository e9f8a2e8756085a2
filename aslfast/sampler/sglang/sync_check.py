"""Proof that the engine serves the adapters that the trainer has: both score the same few tokens, and must agree.

Rollouts that silently ran on the base, or on weights of some steps ago, look like any others. So after each push the
log-probs of a fixed probe per role are compared, those with the adapter and those of the base alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel

from aslfast.core import role_of
from aslfast.errors import UserError
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.role_tasks import prompt_text
from aslfast.sampler.sglang.engine_client import EngineDied

PROBE_TOKENS = 48
# The largest |log-prob difference| between two right computations, on text that a model knows (on other text float32
# itself may be off by as much). float32: 3e-5 was measured over a batch of mixed adapters, so 1e-4. Half types:
# rounding to relative u (2^-11, 2^-8) in every layer moves a logit by a multiple of u that depends on the model.
# Against float32 arithmetic on the same weights the lab's base moves by 49 u (bfloat16) and 130 u (float16) on its
# prompts, by 220 u on random tokens: hence 256 u.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 256 * 2.0**-11, torch.bfloat16: 256 * 2.0**-8}
REMEDY = "try sampler.share_base=false, and report it if that helps; sampler.kind=local does without the engine"
SAME = 0.1  # of the tolerance: two answers of one engine that differ by less come from the same weights


@dataclass(frozen=True, slots=True)
class Answer:
    """Log-probs at temperature 1 of a role's probe [tokens - 1]: under its adapter, and under the base alone."""

    engine: Sequence[float]
    engine_base: Sequence[float]
    trainer: Sequence[float]
    trainer_base: Sequence[float]


def largest_difference(a: Sequence[float], b: Sequence[float]) -> float:
    """NaN where either holds one."""
    return float((torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)).abs().max())


def check(role: str, version: int, now: Answer, before: Answer | None, tolerance: float) -> float:
    """The largest difference between engine and trainer. UserError where it is beyond the tolerance, naming the cause.

    before: an earlier answer; a trainer that has moved by more than the tolerance since needs an engine that has moved.
    """
    difference = largest_difference(now.engine, now.trainer)
    adapted = largest_difference(now.trainer, now.trainer_base)
    place, figure = f"{role}, version {version}", f"{difference:.2g}, at most {tolerance:.2g}"
    if adapted > tolerance and largest_difference(now.engine, now.engine_base) <= SAME * tolerance:
        what = f"the adapter is not live: the engine answers as the base does, the trainer differs by {adapted:.2g}"
        raise UserError(f"{place}: {what}; {REMEDY}")
    moved = largest_difference(now.trainer, before.trainer) if before else 0.0
    if before and moved > tolerance and largest_difference(now.engine, before.engine) <= SAME * tolerance:
        what = f"the adapter is stale: the engine answers as before, the trainer has moved by {moved:.2g}"
        raise UserError(f"{place}: {what}; {REMEDY}")
    if not difference <= tolerance:  # NaN is no agreement
        raise UserError(f"{place}: engine and trainer differ in a log-prob by {figure}; {REMEDY}")
    return difference


class Engine(Protocol):
    """What a probe needs of a sampler."""

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]: ...

    def version(self, role: str) -> int: ...


class Probe:
    """The roles' probes over one sampler and one trainer."""

    def __init__(self, sampler: Engine, model: PeftModel, prompts: Mapping[str, Sequence[int]]) -> None:
        self._sampler, self._model, self._prompts = sampler, model, prompts
        self.tolerance = TOLERANCE[model.get_input_embeddings().weight.dtype]
        self._before: dict[str, Answer] = {}  # by role: the last that had moved by more than the tolerance
        self._base: dict[str, tuple[list[float], list[float]]] = {}  # by role: asked once, since it is frozen

    def prove(self) -> dict[str, float]:
        """Asks both about every role: the largest difference, and what it took. Raises UserError."""
        started = time.perf_counter()
        found = self.differences()
        return {"sync_difference": max(found.values()), "sync_check_ms": 1000 * (time.perf_counter() - started)}

    def differences(self) -> dict[str, float]:
        """The largest |log-prob difference| by role. Raises UserError."""
        found = {}
        for role in self._prompts:
            now, before = self._answer(role), self._before.get(role)
            found[role] = check(role, self._sampler.version(role), now, before, self.tolerance)
            if before is None or largest_difference(now.trainer, before.trainer) > self.tolerance:
                self._before[role] = now
        return found

    def _answer(self, role: str) -> Answer:
        if role not in self._base:
            self._base[role] = self._both(role, None)
        (engine, trainer), (engine_base, trainer_base) = self._both(role, role), self._base[role]
        return Answer(engine, engine_base, trainer, trainer_base)

    def _both(self, role: str, adapter: str | None) -> tuple[list[float], list[float]]:
        """The answers of engine and trainer to the role's probe."""
        ids = self._prompts[role]
        return score(self._sampler, ids, adapter), logprobs(self._model, ids, adapter)


def probe_prompts(chat: Chat, prompt_set: str, adapters: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The end of the unfilled prompt of each adapter's role, as token ids."""
    prompts = {name: chat.prompt_ids(prompt_text(prompt_set, role_of(name)), "") for name in adapters}
    return {name: tuple(ids[-PROBE_TOKENS:]) for name, ids in prompts.items()}


def score(sampler: Engine, token_ids: Sequence[int], adapter: str | None) -> list[float]:
    """The engine's answer; of the next engine where one is lost meanwhile, until the sampler starts no more."""
    while True:
        try:
            return sampler.score(token_ids, adapter)
        except EngineDied:
            continue


def logprobs(model: PeftModel, token_ids: Sequence[int], adapter: str | None) -> list[float]:
    """The trainer's log-probs of all tokens but the first, float32, at temperature 1. The active adapter stays."""
    active: Any = model.active_adapter
    ids_1T = torch.tensor([token_ids], device=model.device)
    if adapter is not None:
        model.set_adapter(adapter)
    try:
        with torch.no_grad(), model.disable_adapter() if adapter is None else nullcontext():
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    finally:
        model.set_adapter(active)
    return logits_TV.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0].tolist()
