"""The SGLang sampler: three adapters and the base served by one engine, in one batch.

The same protocol as the local sampler. The same request (context, adapter's weights, temperature, seed) gives the same
tokens whatever runs in its batch, up to draws so close that the rounding of another batch decides them; the order in
which requests end is the engine's and differs from run to run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec

from peft import PeftModel

from aslfast.errors import UserError
from aslfast.sampler.protocol import FinishReason, Sample, SampleRequest
from aslfast.sampler.sglang import wire
from aslfast.sampler.sglang.adapters import AdapterConfig, ServedAdapters, adapter_state, push
from aslfast.sampler.sglang.engine_client import Engine, EngineDied, RequestRefused
from aslfast.sampler.sglang.engine_supervisor import EngineSupervisor, RestartPolicy
from aslfast.sampler.sglang.server_args import EngineArgs


@dataclass(eq=False)
class EngineRequest:
    """A running request, by the id that the engine knows it by."""

    rid: str
    aborted: bool = False


class SGLangSampler:
    """A `Sampler` and `Scorer` over an engine of its own process tree, started when first needed or by `start`.

    A request whose engine dies is issued again to the next engine, under the adapter's version of that moment. The
    policy's callbacks run in the thread that starts the engine while `generate`, `flush` or `start` waits for it.
    """

    def __init__(
        self, engine_args: EngineArgs, eos: frozenset[int], n_vocab: int, restart_policy: RestartPolicy | None = None
    ) -> None:
        """Raise UserError where SGLang is not installed or does not offer what is asked for."""
        if find_spec("sglang") is None:
            suggestion = "make setup-sglang (CPU) or pip install 'aslfast[sglang]' (GPU)"
            raise UserError(f"sampler.kind is sglang, but SGLang is not installed; {suggestion}")
        if engine_args.deterministic and engine_args.device == "cpu":
            raise UserError("sampler.deterministic is true, but SGLang offers it on a GPU alone; set it to false")
        self.engine_args, self._eos, self._n_vocab = engine_args, sorted(eos), n_vocab
        self._adapters = ServedAdapters()
        self._supervisor = EngineSupervisor(engine_args, restart_policy or RestartPolicy(), self._adapters.push_all)
        self.log = self._supervisor.log
        self._numbers = itertools.count()
        self._running: dict[str, EngineRequest] = {}  # by session
        self._model: PeftModel | None = None

    @property
    def restarts(self) -> int:
        """Return how often the engine was started again."""
        return self._supervisor.restarts

    def start(self) -> None:
        """Start the engine, or start it again, where none runs. Raise UserError where that cannot be."""
        self._supervisor.running()

    def running_engine(self) -> Engine:
        """Return the running engine, started where there is none. Raise UserError where that cannot be."""
        return self._supervisor.running()

    def close(self) -> None:
        """End the engine and all its processes. Running requests end with UserError."""
        self._supervisor.close()

    # --- adapters ------------------------------------------------------------------------------------------------

    def attach(self, model: PeftModel) -> None:
        """Serve the adapters of this model, the trainer's."""
        self._model = model
        self.flush()

    def flush(self) -> None:
        """Push the adapters that have changed: called after each optimizer step. Return once they are served.

        Running requests end under the weights that they began with.
        """
        if self._model is None:
            return
        for role in self._adapters.changed(self._model):
            self.push_adapter(role, *adapter_state(self._model, role))
            self._adapters.mark(self._model, role)

    def push_adapter(self, role: str, weights: bytes, config: AdapterConfig) -> None:
        """Serve these weights (safetensors, PEFT's names) as `role` from now on. Raise UserError if SGLang refuses."""
        with self._supervisor.lock:
            old = self._adapters.put(role, weights, config)
            engine = self._supervisor.engine
            if engine is None:
                return  # the start pushes it
            try:
                push(engine, self._adapters[role])
            except EngineDied:
                self.start()
                return
            except UserError:
                self._adapters.restore(role, old)  # a restart must not try it again
                raise
            if old:
                engine.submit("drop_adapter", name=old.name)  # once its last request has ended

    def version(self, role: str) -> int:
        """Return how often the role's adapter was pushed after the first time."""
        return self._adapters[role].version

    # --- requests ------------------------------------------------------------------------------------------------

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn.

        Raise UserError for an unknown adapter, a token outside the vocabulary, a context without room, an engine that
        cannot be started again; ValueError where the session has a running request.
        """
        self._check(request)
        run = self._running[request.session] = EngineRequest(f"r{next(self._numbers)}")
        try:
            while not run.aborted:
                engine = await self._supervisor.running_async()
                try:
                    return _sample(request, await asyncio.wrap_future(self._submit(engine, run, request)))
                except EngineDied:
                    continue
                except RequestRefused as refused:
                    raise UserError(f"session {request.session}: the engine refuses the request ({refused})") from None
            return Sample((), (), "abort", 0)
        except asyncio.CancelledError:
            self.abort(request.session)
            raise
        finally:
            del self._running[request.session]

    def abort(self, session: str) -> None:
        """End the session's request, if one is running: it returns what it has with finish="abort"."""
        run = self._running.get(session)
        if run is not None:
            run.aborted = True
            if self._supervisor.engine is not None:
                self._supervisor.engine.submit("abort", rid=run.rid)

    def release(self, session: str) -> None:
        """Forget a session: abort its request. The engine evicts the least recently used keys and values by itself."""
        self.abort(session)

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        """Return the engine's log-probs of all tokens but the first, at temperature 1. May raise EngineDied."""
        name = self._adapters.name(adapter, "score")
        rid = f"s{next(self._numbers)}"
        engine = self.running_engine()
        return engine.call("score", rid=rid, token_ids=list(token_ids), adapter=name)["logprobs"]

    def _check(self, request: SampleRequest) -> None:
        """Raise UserError or ValueError for a request that cannot be served."""
        place, n_tokens, room = f"session {request.session}", len(request.token_ids), self.engine_args.max_context
        if request.session in self._running:
            raise ValueError(f"{place}: a request is running; await it before the next turn")
        self._adapters.name(request.adapter, place)
        if n_tokens >= room:
            suggestion = "shorten the context or raise max_context"
            raise UserError(f"{place}: {n_tokens} tokens leave no room in a context of {room}; {suggestion}")
        if not 0 <= min(request.token_ids) <= max(request.token_ids) < self._n_vocab:
            raise UserError(f"{place}: a token id outside [0, {self._n_vocab}); use the model's own tokenizer")

    def _submit(self, engine: Engine, run: EngineRequest, request: SampleRequest) -> Future[wire.Header]:
        room = self.engine_args.max_context - len(request.token_ids)
        sampling = {
            "max_new_tokens": min(request.max_new_tokens, room), "temperature": request.temperature,
            "sampling_seed": request.seed, "stop_token_ids": self._eos, "custom_params": {"stop": list(request.stop)},
        }  # fmt: skip
        adapter = self._adapters.name(request.adapter, request.session)
        return engine.submit(
            "generate", rid=run.rid, token_ids=list(request.token_ids), adapter=adapter, sampling=sampling
        )


def _sample(request: SampleRequest, reply: wire.Header) -> Sample:
    token_ids, logprobs = tuple(reply["token_ids"]), tuple(reply["logprobs"])
    finish = finish_reason(reply["finish"], request)
    if len(token_ids) != len(logprobs):
        raise RuntimeError(f"session {request.session}: {len(token_ids)} tokens with {len(logprobs)} log-probs")
    return Sample(token_ids, logprobs, finish, reply["cached_tokens"])


def finish_reason(reason: wire.Header, request: SampleRequest) -> FinishReason:
    """Return SGLang's reason in the protocol's words. Raise UserError where the logits were not finite."""
    if reason["type"] in ("length", "abort"):
        return reason["type"]
    if isinstance(reason["matched"], int):
        return "eos"
    if reason["matched"] not in request.stop:
        what = f"session {request.session}: the engine's logits are not finite"
        raise UserError(f"{what}; set model.dtype to float32, or copy the base's weights again")
    return "stop"
