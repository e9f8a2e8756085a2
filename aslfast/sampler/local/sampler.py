"""The local sampler: continuous batching over any Hugging Face causal LM in plain torch, without a server.

One forward pass (`forward_pass.py`) serves every adapter (`multi_lora.py`) and every running request (`kv_slots.py`,
`kv_cache.py`); idle sessions keep their keys and values for the next turn. Requests with equal tokens so far are one
row of it (`running_request.py`): they part when they draw different tokens, each by its own random numbers. No thread:
one asyncio task steps while there is work and yields between steps, so the order of everything, and with it every
token, is reproducible.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Collection, Mapping

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aslfast.errors import UserError
from aslfast.models.output_head import logits_not_finite
from aslfast.sampler.local.forward_pass import ForwardPass, buckets, eos_ids
from aslfast.sampler.local.kv_slots import SlotTable
from aslfast.sampler.local.running_request import Row, RunningRequest
from aslfast.sampler.local.sampling import draw_tokens
from aslfast.sampler.prefix_index import common_prefix
from aslfast.sampler.protocol import FinishReason, Sample, SampleRequest
from aslfast.sampler.stop_strings import StopFinder, TokenPieces
from aslfast.speed import return_freed_memory

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
        self._running: list[Row] = []  # by slot
        self._n_promised = 0  # slots, to rows that are being admitted
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
            slot = next(i for i, row in enumerate(self._running) if run in row.members)
            self._end(slot, {run: "abort"})

    def release(self, session: str) -> None:
        """Forget a session: abort its request, free its slot. Unknown sessions are ignored."""
        self.abort(session)
        self._slots.forget(session)

    def flush(self) -> None:
        """Drop all keys and values and read the adapters again: called after each optimizer step.

        Running requests go on from the tokens they have, under the new weights.
        """
        self._waiting.extendleft(run for row in reversed(self._running) for run in reversed(row.members))
        self._running.clear()
        self._slots.drop()
        self._forward.refresh()
        return_freed_memory()  # the learner's, before the cache grows again

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
        runs = [*(run for row in self._running for run in row.members), *self._waiting]
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
        rows = self._rows_to_start(self._slots.max_slots - len(self._running))
        keep = {run.request.session for row in rows for run in row.members}
        while rows:
            for row in rows:
                row.n_kv = self._slots.n_held(*row.slot_key)
            wave, rows = self._split(rows) if self._slots.reuse else (rows, [])
            self._n_promised = len(rows)
            self._start(wave, keep)

    def _rows_to_start(self, n_free: int) -> list[Row]:
        """Take requests from the queue, those of equal tokens as one row, until `n_free` rows are full."""
        rows: dict[object, list[RunningRequest]] = {}
        while self._waiting:
            run = self._waiting[0]
            key = (run.request.adapter, tuple(run.ids)) if self._forward.merges else run.request.session
            if key not in rows and len(rows) == n_free:
                break
            rows.setdefault(key, []).append(self._waiting.popleft())
        return [Row(runs) for runs in rows.values()]

    def _split(self, batch: list[Row]) -> tuple[list[Row], list[Row]]:
        """Return the requests to start now, and those that wait for one of them to compute what they begin with too.

        In order of their tokens, a request shares its longest prefix with one beside it.
        """
        first: list[Row] = []
        later: list[Row] = []
        n_saved = 0
        before = None
        for row in sorted(batch, key=lambda row: (row.adapter or "", row.ids)):
            same = before is not None and before.adapter == row.adapter
            n_shared = common_prefix(before.ids, row.ids) if before and same else 0
            n_new = min(n_shared, len(row.ids) - 1) - row.n_kv
            (later if n_new >= SHARED_TOKENS else first).append(row)
            n_saved += n_new if n_new >= SHARED_TOKENS else 0
            before = row
        return (first, later) if n_saved >= PASS_TOKENS else (batch, [])

    def _start(self, batch: list[Row], keep: Collection[str]) -> None:
        """Give the rows slots and run their contexts. keep: sessions whose slots are evicted last."""
        first = len(self._running)
        # By tokens to run: neighbours can then share a pass with little padding.
        for row in sorted(batch, key=lambda row: (len(row.ids) - row.n_kv, len(row.ids))):
            row.started(self._slots.start(*row.slot_key, keep, self._of_session))
            for run in row.members[1:]:
                self._slots.forget(run.request.session)  # the row's slot holds what theirs did
            self._running.append(row)
        # Last bucket first: a row that ends right here gives its slot to the last one, which has been run by then.
        for low, high in reversed(buckets([len(row.ids) - row.n_kv for row in self._running[first:]])):
            self._sample_tokens(first + low, first + high)

    def _sample_tokens(self, low: int, high: int) -> None:
        """Run what is not in the cache of slots [low, high), draw a token for each request, and end those that are
        done."""
        rows = self._running[low:high]
        runs = [run for row in rows for run in row.members]
        logits_RV = self._forward.logits(low, rows)
        if len(runs) > len(rows):
            row_of = [number for number, row in enumerate(rows) for _ in row.members]
            logits_RV = logits_RV[row_of]
        temperatures = [run.request.temperature for run in runs]
        token_R, logprob_R = draw_tokens(logits_RV, temperatures, [run.rng.random() for run in runs])
        logprobs = logprob_R.tolist()
        if not all(map(math.isfinite, logprobs)):  # one NaN among the logits makes all log-probs NaN
            raise logits_not_finite(self._forward.model)
        for slot, row in enumerate(rows, low):
            if len(row.ids) - row.n_kv > 1:  # a context; sampled tokens are noted at the end
                self._slots.hold(slot, row.ids)
            row.n_kv = len(row.ids)
        for run, token, logprob in zip(runs, token_R.tolist(), logprobs, strict=True):
            run.append(token, logprob)
        for slot in reversed(range(low, high)):  # from the last slot: the one that fills a gap then goes on running
            members = self._running[slot].members
            ends: dict[RunningRequest, FinishReason] = {
                run: why for run in members if (why := run.finish_reason(self._eos, self.max_context))
            }
            self._end(slot, ends)

    def _end(self, slot: int, ends: Mapping[RunningRequest, FinishReason]) -> None:
        """Answer those requests of a slot that have ended; the others go on, in a slot for each token that they drew.

        Without others the last running row takes its place; the slot itself is kept for the next turn.
        """
        row = self._running[slot]
        left = [run for run in row.members if run not in ends]
        if left:
            row.members = left
            self._part(slot)
        else:
            last = self._running[-1]
            self._running[slot] = last
            self._running.pop()
            self._slots.finish(slot, row.ids[: row.n_kv], last.n_kv)
            if not self._running:
                self._forward.cache.shared = None  # an idle sampler keeps no second copy of tails
        for run, finish in ends.items():
            self._answer(run, finish)

    def _part(self, slot: int) -> None:
        """Give the requests of a slot that drew another token than the first one a slot of their own, or let them wait
        for one."""
        row = self._running[slot]
        row.members, *others = row.parted()
        self._slots.hand_over(slot, row.session)
        for runs in others:
            if len(self._running) + self._n_promised == self._slots.max_slots:
                self._waiting.extendleft(reversed(runs))
                continue
            self._slots.fork(slot, runs[0].request.session, row.n_kv, self._of_session)
            self._running.append(Row(runs, row.n_kv))

    def _answer(self, run: RunningRequest, finish: FinishReason) -> None:
        del self._of_session[run.request.session]
        run.answer(finish)
