"""Weight-sync check: the engine and the trainer score the same few tokens under every adapter, and must agree.

Rollouts that silently ran on the base, or on weights of some steps ago, look like any others. So after each push the
log-probs of a fixed prompt per role are compared, those with the adapter and those of the base alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from peft import PeftModel

from aslfast.config.roles import ROLES
from aslfast.distributed.collectives import broadcast_in_group
from aslfast.distributed.process_group import ProcessGroup
from aslfast.errors import UserError
from aslfast.prompts.chat_template import Chat
from aslfast.prompts.templates import prompt_text
from aslfast.sampler.protocol import Scorer
from aslfast.sampler.sglang.engine_client import EngineDied

T = TypeVar("T")
PROMPT_TOKENS = 48
# The largest |log-prob difference| between two right computations, on text that a model knows (on other text float32
# itself may be off by as much). float32: 3e-5 was measured over a batch of mixed adapters, so 1e-4. Half types:
# rounding to relative u (2^-11, 2^-8) in every layer moves a logit by a multiple of u that depends on the model.
# Against float32 arithmetic on the same weights the lab's base moves by 49 u (bfloat16) and 130 u (float16) on its
# prompts, by 220 u on random tokens: hence 256 u.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 256 * 2.0**-11, torch.bfloat16: 256 * 2.0**-8}
SUGGESTION = "try sampler.share_base=false, and report it if that helps; sampler.kind=local does without the engine"
SAME = 0.1  # of the tolerance: two answers of one engine that differ by less come from the same weights


@dataclass(frozen=True, slots=True)
class RoleLogprobs:
    """Log-probs at temperature 1 of a role's prompt [tokens - 1]: under its adapter, and under the base alone."""

    engine: Sequence[float]
    engine_base: Sequence[float]
    trainer: Sequence[float]
    trainer_base: Sequence[float]


def largest_difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Return max |a - b|; NaN where either holds one."""
    return float((torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)).abs().max())


def check_role(role: str, version: int, now: RoleLogprobs, before: RoleLogprobs | None, tolerance: float) -> float:
    """Return the largest difference between engine and trainer. Raise UserError, with the cause, beyond the tolerance.

    before: earlier log-probs; if the trainer's have moved by more than the tolerance since, the engine's must have too.
    """
    difference = largest_difference(now.engine, now.trainer)
    effect = largest_difference(now.trainer, now.trainer_base)
    place = f"{role}, version {version}"
    if effect > tolerance and largest_difference(now.engine, now.engine_base) <= SAME * tolerance:
        what = f"the adapter is not loaded: the engine answers as the base does, the trainer differs by {effect:.2g}"
        raise UserError(f"{place}: {what}; {SUGGESTION}")
    moved = largest_difference(now.trainer, before.trainer) if before else 0.0
    if before and moved > tolerance and largest_difference(now.engine, before.engine) <= SAME * tolerance:
        what = f"the adapter is stale: the engine answers as before, the trainer has moved by {moved:.2g}"
        raise UserError(f"{place}: {what}; {SUGGESTION}")
    if not difference <= tolerance:  # NaN is no agreement
        size = f"{difference:.2g}, at most {tolerance:.2g}"
        raise UserError(f"{place}: engine and trainer differ in a log-prob by {size}; {SUGGESTION}")
    return difference


class WeightSyncCheck:
    """A comparison of one sampler's weights with one trainer's, role by role."""

    def __init__(self, scorer: Scorer, model: PeftModel, prompts: Mapping[str, Sequence[int]]) -> None:
        self._scorer, self._model, self._prompts = scorer, model, prompts
        self.tolerance = TOLERANCE[model.get_input_embeddings().weight.dtype]
        self._before: dict[str, RoleLogprobs] = {}  # by role: the last that had moved by more than the tolerance
        self._base: dict[str, tuple[list[float], list[float]]] = {}  # by role: computed once, since it is frozen

    def check(self) -> dict[str, float]:
        """Compare every role; return the largest difference, and the time it took, as metrics. Raise UserError."""
        started = time.perf_counter()
        found = self.differences()
        return {"sync_difference": max(found.values()), "sync_check_ms": 1000 * (time.perf_counter() - started)}

    def differences(self) -> dict[str, float]:
        """Return the largest |log-prob difference| by role. Raise UserError."""
        found = {}
        for role in self._prompts:
            now, before = self._logprobs_of(role), self._before.get(role)
            found[role] = check_role(role, self._scorer.version(role), now, before, self.tolerance)
            if before is None or largest_difference(now.trainer, before.trainer) > self.tolerance:
                self._before[role] = now
        return found

    def _logprobs_of(self, role: str) -> RoleLogprobs:
        if role not in self._base:
            self._base[role] = self._both(role, None)
        (engine, trainer), (engine_base, trainer_base) = self._both(role, role), self._base[role]
        return RoleLogprobs(engine, engine_base, trainer, trainer_base)

    def _both(self, role: str, adapter: str | None) -> tuple[list[float], list[float]]:
        """Return the engine's and the trainer's log-probs of the role's prompt."""
        ids = self._prompts[role]
        return score(self._scorer, ids, adapter), logprobs(self._model, ids, adapter)


class GroupScorer:
    """A `Scorer` on every rank of a model-parallel group: the leader asks its engine, the others get the answers.

    Each of them runs the trainer's part of the check itself.
    """

    def __init__(self, scorer: Scorer, process_group: ProcessGroup) -> None:
        self._scorer, self._process_group = scorer, process_group

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        """Return the leader's log-probs."""
        return self._from_leader(lambda: score(self._scorer, token_ids, adapter), list[float])

    def version(self, role: str) -> int:
        """Return the leader's version."""
        return self._from_leader(lambda: self._scorer.version(role), int)

    def _from_leader(self, ask: Callable[[], T], kind: type[T]) -> T:
        return broadcast_in_group(self._process_group, ask() if self._process_group.is_group_leader else None, kind)


def check_prompts(chat: Chat, prompt_set: str, adapters: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the end of an unfilled prompt for each adapter, its role's where the set has one, as token ids."""
    files = {name: name if name in ROLES else ROLES[-1] for name in adapters}
    prompts = {name: chat.prompt_ids(prompt_text(prompt_set, file), "") for name, file in files.items()}
    return {name: tuple(ids[-PROMPT_TOKENS:]) for name, ids in prompts.items()}


def score(scorer: Scorer, token_ids: Sequence[int], adapter: str | None) -> list[float]:
    """Return the engine's log-probs; of the next engine where one dies meanwhile, until no more is started."""
    while True:
        try:
            return scorer.score(token_ids, adapter)
        except EngineDied:
            continue


def logprobs(model: PeftModel, token_ids: Sequence[int], adapter: str | None) -> list[float]:
    """Return the trainer's log-probs of all tokens but the first, float32, temperature 1; keep the active adapter."""
    active: Any = model.active_adapter  # one name, though PEFT's type allows several
    ids_1T = torch.tensor([token_ids], device=model.device)
    if adapter is not None:
        model.set_adapter(adapter)
    try:
        with torch.no_grad(), model.disable_adapter() if adapter is None else nullcontext():
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    finally:
        model.set_adapter(active)
    return logits_TV.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0].tolist()
