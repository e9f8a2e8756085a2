"""The local sampler: continuous batching over any Hugging Face causal LM in plain torch, without a server.

One forward pass serves every adapter (`lora.py`) and every request under way (`rows.py`, `cache.py`); idle sessions
keep their keys and values for the next turn. No thread: one asyncio task steps while there is work and yields between
steps, so the order of everything, and with it every token, is reproducible.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from aslfast.errors import UserError
from aslfast.sampler.local.kv_cache import ATTENTION, KVCache, causal_mask
from aslfast.sampler.local.kv_slots import Rows
from aslfast.sampler.local.multi_lora import MultiLora
from aslfast.sampler.local.sampling import draw_tokens
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.stop_strings import Pieces, StopFinder

Finish = Literal["stop", "eos", "length", "abort"]
ADMIT_SHARE = 8  # a prefill pass is worth its cost once 1/8 as many requests wait as are under way
PREFILL_TOKENS = 8192  # most tokens of one prefill pass, padding included
PREFILL_SLACK = 16  # rows that differ by at most this many tokens, or a quarter, are padded to one length


@dataclass(eq=False)
class Run:
    """A request under way. ids = context + sampled; the first n_kv of them are in the cache."""

    request: SampleRequest
    done: asyncio.Future[Sample]
    stops: StopFinder
    ids: list[int]
    rng: random.Random
    n_kv: int = 0
    cached: int | None = None  # n_kv when it first started
    out: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class LocalSampler:
    """A `Sampler` over a `transformers` causal LM, bare or wrapped by PEFT with named LoRA adapters.

    max_rows: sessions whose keys and values are kept, and so the largest batch. max_context: most tokens of a session,
    lowered to what the model's positions allow. Models with other than full causal attention are refused. The model's
    mode, active adapter and gradients are as they were after each step.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_running_requests: int = 128, max_context: int = 2048) -> None:
        if max_running_requests < 1 or max_context < 2:
            raise ValueError(
                f"LocalSampler: max_running_requests {max_running_requests} must be >= 1 and max_context {max_context} >= 2"
            )
        self._lora = MultiLora(model)
        # PEFT replaces layers in place: underneath is the same model without the wrapper's overhead.
        self._model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._modules = list(self._model.modules())
        self._config = self._model.get_decoder().config
        n_heads, n_kv_heads, head_dim = check_architecture(self._config)
        self._n_groups = n_heads // n_kv_heads
        weight = self._model.get_input_embeddings().weight
        self._n_vocab, self._device, self._dtype = weight.shape[0], weight.device, weight.dtype
        self.max_context = min(max_context, getattr(self._config, "max_position_embeddings", None) or max_context)
        cache = KVCache(self._config.num_hidden_layers, n_kv_heads, head_dim, weight.detach())
        self._rows = Rows(cache, max_running_requests, self.max_context)
        self._pieces = Pieces(tokenizer)
        self._eos = eos_ids(self._model, tokenizer)
        self._active: list[Run] = []  # the run of each row under way
        self._waiting: deque[Run] = deque()
        self._runs: dict[str, Run] = {}  # by session
        self._driver: asyncio.Task[None] | None = None

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn.

        UserError: an unknown adapter, a token outside the vocabulary, a context without room. ValueError: the session
        has a request under way. What a forward pass raises reaches every coroutine that waits.
        """
        self._check(request)
        done = asyncio.get_running_loop().create_future()
        stops = StopFinder(request.stop, self._pieces)
        run = Run(request, done, stops, list(request.token_ids), random.Random(request.seed))
        self._runs[request.session] = run
        self._waiting.append(run)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            return await done
        finally:
            if self._runs.get(request.session) is run:  # cancelled while it waited
                self.abort(request.session)

    def abort(self, session: str) -> None:
        """End the session's request, if one is under way: it returns what it has with finish="abort"."""
        run = self._runs.get(session)
        if run is None:
            return
        if run in self._waiting:
            self._waiting.remove(run)
            self._answer(run, "abort")
        else:
            self._finish(self._active.index(run), "abort")

    def release(self, session: str) -> None:
        """Forget a session: abort its request, free its row. Unknown sessions are ignored."""
        self.abort(session)
        self._rows.forget(session)

    def close(self) -> None:
        """Free the keys and values."""
        self._rows.drop()

    def flush(self) -> None:
        """Drop all keys and values and read the adapters again: to be called after each optimizer step.

        Requests under way go on from the tokens they have, under the new weights.
        """
        self._waiting.extendleft(reversed(self._active))
        self._active.clear()
        self._rows.drop()
        self._lora.refresh()
        self._modules = list(self._model.modules())

    def _check(self, request: SampleRequest) -> None:
        if self._lora.changed():
            self.flush()
        place, n_tokens = f"session {request.session}", len(request.token_ids)
        if request.session in self._runs:
            raise ValueError(f"{place}: a request is under way; await it before the next turn")
        if request.adapter is not None and request.adapter not in self._lora.names:
            known = ", ".join(self._lora.names) or "none"
            raise UserError(f"{place}: no adapter {request.adapter!r} (loaded: {known}); load it into the model first")
        if n_tokens >= self.max_context:
            remedy = "shorten the context or raise max_context"
            raise UserError(f"{place}: {n_tokens} tokens leave no room in a context of {self.max_context}; {remedy}")
        if not 0 <= min(request.token_ids) <= max(request.token_ids) < self._n_vocab:
            raise UserError(f"{place}: a token id outside [0, {self._n_vocab}); use the model's own tokenizer")

    async def _drive(self) -> None:
        try:
            while self._waiting or self._active:
                self._step()
                await asyncio.sleep(0)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        """Hand an error of the loop to every waiting coroutine; keep nothing that may be half written."""
        runs = [*self._active, *self._waiting]
        for owned in (self._active, self._waiting, self._runs):
            owned.clear()
        self._rows.drop()
        for run in runs:
            if not run.done.done():
                _ = run.done.set_exception(error) if isinstance(error, Exception) else run.done.cancel()

    def _step(self) -> None:
        with sampling_mode(self._config, self._modules):
            if len(self._waiting) * ADMIT_SHARE >= len(self._active):
                self._admit()
            if self._active:
                self._forward(0, len(self._active))

    def _admit(self) -> None:
        """Start waiting requests while there are rows, first come first served, and run their contexts."""
        first = len(self._active)
        n_free = self._rows.max_running_requests - first
        batch = [self._waiting.popleft() for _ in range(min(n_free, len(self._waiting)))]
        keep = {run.request.session for run in batch}
        # By tokens to run: neighbours can then share a pass with little padding.
        for run in sorted(batch, key=lambda run: (len(run.ids) - self._rows.held(*self._key(run)), len(run.ids))):
            run.n_kv = self._rows.start(*self._key(run), keep, self._runs)
            run.cached = run.n_kv if run.cached is None else run.cached
            self._active.append(run)
        # Last bucket first: whoever ends right here gives its row to the last row, which has been run by then.
        for low, high in reversed(buckets([len(run.ids) - run.n_kv for run in self._active[first:]])):
            self._forward(first + low, first + high)

    @staticmethod
    def _key(run: Run) -> tuple[str, str | None, list[int]]:
        return run.request.session, run.request.adapter, run.ids

    def _forward(self, low: int, high: int) -> None:
        """Run what is not in the cache of rows [low, high), draw a token for each, and end those that are done."""
        runs = self._active[low:high]
        logits_BV = self._logits(low, runs)
        temperatures = [run.request.temperature for run in runs]
        token_B, logprob_B = draw_tokens(logits_BV, temperatures, [run.rng.random() for run in runs])
        ends: list[tuple[int, Finish]] = []
        for row, (run, token, logprob) in enumerate(zip(runs, token_B.tolist(), logprob_B.tolist(), strict=True), low):
            run.n_kv = len(run.ids)
            run.ids.append(token)
            run.out.append(token)
            run.logprobs.append(logprob)
            if finish := self._finish_of(run):
                ends.append((row, finish))
        for row, finish in reversed(ends):  # from the last row: the row that fills the gap is then one that goes on
            self._finish(row, finish)

    def _logits(self, low: int, runs: Sequence[Run]) -> torch.Tensor:
        """Logits [B, V] after the last token of each run. Padding stands on the left, so the last token is the last."""
        n_tokens = max(len(run.ids) - run.n_kv for run in runs)
        n_columns = max(len(run.ids) for run in runs)
        self._rows.cache.reserve(0, n_columns, 0, self.max_context)
        tokens = [[0] * (n_tokens - len(run.ids) + run.n_kv) + run.ids[run.n_kv :] for run in runs]
        n_total_B1 = torch.tensor([[len(run.ids)] for run in runs], device=self._device)
        position_BT = n_total_B1 - n_tokens + torch.arange(n_tokens, device=self._device)
        padded_BT = None
        if n_tokens > 1:
            padded_BT = position_BT < torch.tensor([[run.n_kv] for run in runs], device=self._device)
            position_BT = position_BT.clamp_(min=0)  # padding must see something: a row of -inf alone gives NaN
        self._rows.cache.set_write_positions(low, position_BT, n_columns, padded_BT)
        self._lora.enter([run.request.adapter for run in runs])
        try:
            return self._model(
                input_ids=torch.tensor(tokens, device=self._device),
                position_ids=position_BT,
                attention_mask=causal_mask(position_BT, n_columns, self._n_groups, self._dtype),
                past_key_values=self._rows.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        finally:
            self._lora.leave()

    def _finish_of(self, run: Run) -> Finish | None:
        if run.out[-1] in self._eos:
            return "eos"
        if run.stops.found(run.out):
            return "stop"
        if len(run.out) >= run.request.max_new_tokens or len(run.ids) >= self.max_context:
            return "length"
        return None

    def _finish(self, row: int, finish: Finish) -> None:
        """Answer a row's run; the last row under way takes its place, the row itself is kept for the next turn."""
        run, last = self._active[row], self._active[-1]
        self._active[row] = last
        self._active.pop()
        self._rows.finish(row, run.ids[: run.n_kv], last.n_kv)
        self._answer(run, finish)

    def _answer(self, run: Run, finish: Finish) -> None:
        del self._runs[run.request.session]
        if not run.done.done():
            run.done.set_result(Sample(tuple(run.out), tuple(run.logprobs), finish, run.cached or 0))


@contextmanager
def sampling_mode(config: Any, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode, our attention and no gradients; all restored, since the learner trains the same modules."""
    training = [module for module in modules if module.training]
    attention = config._attn_implementation
    config._attn_implementation = ATTENTION
    for module in training:
        vars(module)["training"] = False  # nn.Module.__setattr__ on every module would take a tenth of a small step
    try:
        with torch.inference_mode():
            yield
    finally:
        config._attn_implementation = attention
        for module in training:
            vars(module)["training"] = True


def buckets(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut ascending lengths into ranges [low, high) that waste little on padding and stay under PREFILL_TOKENS."""
    cuts = [0]
    for i, n in enumerate(lengths):
        close = n <= max(lengths[cuts[-1]] + PREFILL_SLACK, lengths[cuts[-1]] * 5 // 4)
        if i > cuts[-1] and (not close or (i + 1 - cuts[-1]) * n > PREFILL_TOKENS):
            cuts.append(i)
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True)) if lengths else []


def check_architecture(config: Any) -> tuple[int, int, int]:
    """(query heads, kv heads, head dim), or UserError if a layer's attention is not full causal attention."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None):
        what = ", ".join(sorted(kinds)) or f"sliding_window={config.sliding_window}"
        raise UserError(f"{config.model_type}: {what} is not served by the local sampler; use SGLang for this model")
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return n_heads, n_kv_heads, getattr(config, "head_dim", None) or config.hidden_size // n_heads


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a turn: those of the generation config, and the tokenizer's."""
    found: set[int] = set()
    for ids in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)
