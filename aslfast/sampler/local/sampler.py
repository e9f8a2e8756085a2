"""The local sampler: continuous batching over any Hugging Face causal LM in plain torch, without a server.

One forward pass (`forward_pass.py`) serves every adapter (`multi_lora.py`) and every running request (`kv_slots.py`,
`kv_cache.py`); idle sessions keep their keys and values for the next turn. No thread: one asyncio task steps while
there is work and yields between steps, so the order of everything, and with it every token, is reproducible.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Collection

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aslfast.errors import UserError
from aslfast.models.output_head import logits_not_finite
from aslfast.sampler.local.forward_pass import ForwardPass, buckets, eos_ids
from aslfast.sampler.local.kv_slots import SlotTable
from aslfast.sampler.local.running_request import RunningRequest
from aslfast.sampler.local.sampling import draw_tokens
from aslfast.sampler.prefix_index import common_prefix
from aslfast.sampler.protocol import FinishReason, Sample, SampleRequest
from aslfast.sampler.stop_strings import StopFinder, TokenPieces

ADMIT_FRACTION = 8  # a prefill pass is worth its cost once 1/8 as many requests wait as run
SHARED_TOKENS = 16  # a request waits for another's context if it begins with at least so many tokens more of it
PASS_TOKENS = 128  # that must be saved in all: a pass more costs about as much as so many tokens


class LocalSampler:
    """A `Sampler` over a `transformers` causal LM, bare or wrapped by PEFT with named LoRA adapters.

    max_running_requests: sessions whose keys and values are kept, and so the largest batch. max_context: most tokens
    of a session, lowered to what the model's positions allow. radix_cache: reuse the keys and values of what contexts
    begin with, across turns and sessions. Models with other than full causal attention are refused.
    The model's mode, active adapter and gradients are as they were after each step.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, *,
        max_running_requests: int = 128, max_context: int = 2048, radix_cache: bool = True,
    ) -> None:  # fmt: skip
        if max_running_requests < 1 or max_context < 2:
            raise ValueError(
                f"LocalSampler: max_running_requests {max_running_requests} must be >= 1 "
                f"and max_context {max_context} >= 2"
            )
        self._forward = ForwardPass(model, max_context, radix_cache)
        self.max_context = self._forward.max_context
        self._slots = SlotTable(self._forward.cache, max_running_requests, self.max_context, radix_cache)
        self._pieces = TokenPieces(tokenizer)
        self._eos = eos_ids(self._forward.model, tokenizer)
        self._running: list[RunningRequest] = []  # by slot
        self._waiting: deque[RunningRequest] = deque()
        self._of_session: dict[str, RunningRequest] = {}  # running and waiting
        self._driver: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Do nothing: the model is in this process."""

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn.

        Raise UserError for an unknown adapter, a token outside the vocabulary, a context without room, logits that are
        not finite; ValueError where the session has a running request. What a forward pass raises reaches every
        coroutine that waits.
        """
        self._check(request)
        done = asyncio.get_running_loop().create_future()
        stops = StopFinder(request.stop, self._pieces)
        run = RunningRequest(request, done, stops, list(request.token_ids), random.Random(request.seed))
        self._of_session[request.session] = run
        self._waiting.append(run)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            return await done
        finally:
            if self._of_session.get(request.session) is run:  # cancelled while it waited
                self.abort(request.session)

    def abort(self, session: str) -> None:
        """End the session's request, if there is one: it returns what it has with finish="abort"."""
        run = self._of_session.get(session)
        if run is None:
            return
        if run in self._waiting:
            self._waiting.remove(run)
            self._answer(run, "abort")
        else:
            self._finish(self._running.index(run), "abort")

    def release(self, session: str) -> None:
        """Forget a session: abort its request, free its slot. Unknown sessions are ignored."""
        self.abort(session)
        self._slots.forget(session)

    def flush(self) -> None:
        """Drop all keys and values and read the adapters again: called after each optimizer step.

        Running requests go on from the tokens they have, under the new weights.
        """
        self._waiting.extendleft(reversed(self._running))
        self._running.clear()
        self._slots.drop()
        self._forward.refresh()

    def close(self) -> None:
        """Free the keys and values."""
        self._slots.drop()

    def _check(self, request: SampleRequest) -> None:
        """Raise UserError or ValueError for a request that cannot be served."""
        if self._forward.lora.changed():
            self.flush()
        place, n_tokens, adapters = f"session {request.session}", len(request.token_ids), self._forward.lora.names
        if request.session in self._of_session:
            raise ValueError(f"{place}: a request is running; await it before the next turn")
        if request.adapter is not None and request.adapter not in adapters:
            known = ", ".join(adapters) or "none"
            raise UserError(f"{place}: no adapter {request.adapter!r} (loaded: {known}); load it into the model first")
        if n_tokens >= self.max_context:
            suggestion = "shorten the context or raise max_context"
            raise UserError(
                f"{place}: {n_tokens} tokens leave no room in a context of {self.max_context}; {suggestion}"
            )
        if not 0 <= min(request.token_ids) <= max(request.token_ids) < self._forward.n_vocab:
            raise UserError(f"{place}: a token id outside [0, {self._forward.n_vocab}); use the model's own tokenizer")

    async def _drive(self) -> None:
        """Step while there is work."""
        try:
            while self._waiting or self._running:
                self._step()
                await asyncio.sleep(0)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        """Raise an error of the loop in every waiting coroutine; keep nothing that may be half written."""
        runs = [*self._running, *self._waiting]
        for owned in (self._running, self._waiting, self._of_session):
            owned.clear()
        self._slots.drop()
        for run in runs:
            run.fail(error)

    def _step(self) -> None:
        with self._forward.sampling_mode():
            if len(self._waiting) * ADMIT_FRACTION >= len(self._running):
                self._admit()
            if self._running:
                self._sample_tokens(0, len(self._running))

    def _admit(self) -> None:
        """Start waiting requests while there are slots, first come first served, and run their contexts."""
        n_free = self._slots.max_slots - len(self._running)
        batch = [self._waiting.popleft() for _ in range(min(n_free, len(self._waiting)))]
        keep = {run.request.session for run in batch}
        while batch:
            for run in batch:
                run.n_kv = self._slots.n_held(*run.slot_key)
            wave, batch = self._split(batch) if self._slots.reuse else (batch, [])
            self._start(wave, keep)

    def _split(self, batch: list[RunningRequest]) -> tuple[list[RunningRequest], list[RunningRequest]]:
        """Return the requests to start now, and those that wait for one of them to compute what they begin with too.

        In order of their tokens, a request shares its longest prefix with one beside it.
        """
        first: list[RunningRequest] = []
        later: list[RunningRequest] = []
        n_saved = 0
        before = None
        for run in sorted(batch, key=lambda run: (run.request.adapter or "", run.ids)):
            same = before is not None and before.request.adapter == run.request.adapter
            n_shared = common_prefix(before.ids, run.ids) if before and same else 0
            n_new = min(n_shared, len(run.ids) - 1) - run.n_kv
            (later if n_new >= SHARED_TOKENS else first).append(run)
            n_saved += n_new if n_new >= SHARED_TOKENS else 0
            before = run
        return (first, later) if n_saved >= PASS_TOKENS else (batch, [])

    def _start(self, batch: list[RunningRequest], keep: Collection[str]) -> None:
        """Give the requests slots and run their contexts. keep: sessions whose slots are evicted last."""
        first = len(self._running)
        # By tokens to run: neighbours can then share a pass with little padding.
        for run in sorted(batch, key=lambda run: (len(run.ids) - run.n_kv, len(run.ids))):
            run.n_kv = self._slots.start(*run.slot_key, keep, self._of_session)
            run.n_cached = run.n_kv if run.n_cached is None else run.n_cached
            self._running.append(run)
        # Last bucket first: a request that ends right here gives its slot to the last one, which has been run by then.
        for low, high in reversed(buckets([len(run.ids) - run.n_kv for run in self._running[first:]])):
            self._sample_tokens(first + low, first + high)

    def _sample_tokens(self, low: int, high: int) -> None:
        """Run what is not in the cache of slots [low, high), draw a token for each, and end those that are done."""
        runs = self._running[low:high]
        logits_BV = self._forward.logits(low, runs)
        temperatures = [run.request.temperature for run in runs]
        token_B, logprob_B = draw_tokens(logits_BV, temperatures, [run.rng.random() for run in runs])
        ends: list[tuple[int, FinishReason]] = []
        logprobs = logprob_B.tolist()
        if not all(map(math.isfinite, logprobs)):  # one NaN among the logits makes all log-probs NaN
            raise logits_not_finite(self._forward.model)
        for slot, (run, token, logprob) in enumerate(zip(runs, token_B.tolist(), logprobs, strict=True), low):
            if len(run.ids) - run.n_kv > 1:  # a context; sampled tokens are noted at the end
                self._slots.hold(slot, run.ids)
            run.append(token, logprob)
            if finish := run.finish_reason(self._eos, self.max_context):
                ends.append((slot, finish))
        for slot, finish in reversed(ends):  # from the last slot: the one that fills the gap then goes on running
            self._finish(slot, finish)

    def _finish(self, slot: int, finish: FinishReason) -> None:
        """Answer a slot's request; the last running one takes its place, the slot itself is kept for the next turn."""
        run, last = self._running[slot], self._running[-1]
        self._running[slot] = last
        self._running.pop()
        self._slots.finish(slot, run.ids[: run.n_kv], last.n_kv)
        if not self._running:
            self._forward.cache.shared = None  # an idle sampler keeps no second copy of tails
        self._answer(run, finish)

    def _answer(self, run: RunningRequest, finish: FinishReason) -> None:
        del self._of_session[run.request.session]
        run.answer(finish)
