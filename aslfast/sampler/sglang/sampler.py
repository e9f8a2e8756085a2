"""The SGLang sampler: three adapters and the base served by one engine, in one batch.

The same protocol as the local sampler. The same request (context, adapter's weights, temperature, seed) gives the same
tokens whatever runs beside it, up to draws so close that the rounding of another batch decides them; the order in
which requests end is the engine's and differs from run to run.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

from aslfast.errors import UserError
from aslfast.models.lora import parameters_of
from aslfast.sampler.protocol import Sample, SampleRequest
from aslfast.sampler.sglang.engine_client import Engine, EngineDied, RequestRefused, log_tail
from aslfast.sampler.sglang.server_args import EngineSettings


@dataclass(frozen=True)
class Served:
    """An adapter as the engine has it: what a restart pushes again."""

    name: str  # role@version: the engine's name for exactly these weights
    version: int
    config: dict[str, Any]
    weights: bytes  # safetensors


@dataclass(eq=False)
class Run:
    """A request under way."""

    rid: str
    aborted: bool = False


@dataclass(frozen=True)
class RestartPolicy:
    """How the engine is watched, and who is told."""

    timeout_s: float = 120.0  # without progress while requests run: a hang
    restarts: int = 3  # in the sampler's life
    log: Path | None = None  # None: a temporary file
    notice: Callable[[str], None] = lambda _: None
    before_start: Callable[[], None] = lambda: None  # the last engine's memory is to be let go
    after_start: Callable[[Engine], None] = lambda _: None  # before any adapter is pushed


class SGLangSampler:
    """A `Sampler` over an engine of its own process tree, started when first needed or by `start`.

    model: the trainer's PEFT model, whose adapters are served; it may come later, by `attach`. A request whose engine
    is lost is issued again to the next engine, under the adapter's version of that moment. Callbacks run in the thread
    that starts the engine while `generate`, `flush` or `start` waits for it.
    """

    def __init__(
        self, settings: EngineSettings, eos: frozenset[int], n_vocab: int, supervision: RestartPolicy | None = None
    ) -> None:
        if find_spec("sglang") is None:
            remedy = "make setup-sglang (CPU) or pip install 'aslfast[sglang]' (GPU)"
            raise UserError(f"sampler.kind is sglang, but SGLang is not installed; {remedy}")
        if settings.deterministic and settings.device == "cpu":
            raise UserError("sampler.deterministic is true, but SGLang offers it on a GPU alone; set it to false")
        self.settings, self._eos, self._n_vocab = settings, sorted(eos), n_vocab
        self._supervision = supervision or RestartPolicy()
        self.log = self._supervision.log or Path(tempfile.mkstemp(prefix="aslfast-engine-", suffix=".log")[1])
        self.restarts = 0  # so far
        self._engine: Engine | None = None
        self._failed = ""  # why there is no engine and will be none
        self._starting = threading.RLock()
        self._starter = ThreadPoolExecutor(1, "engine-start")
        self._numbers = itertools.count()
        self._runs: dict[str, Run] = {}  # by session
        self._model: PeftModel | None = None
        self._served: dict[str, Served] = {}  # by role
        self._seen: dict[str, list[tuple[int, int]]] = {}  # each weight and how often it was written, at the last push

    # --- the engine ----------------------------------------------------------------------------------------------

    def start(self) -> Engine:
        """The running engine; started, or started again, where there is none. UserError where it cannot be."""
        with self._starting:
            if self._failed:
                raise UserError(self._failed)  # to all who wait, without another try each
            try:
                while self._engine is None or self._engine.lost:
                    if self._engine is not None:
                        self._count_restart(self._engine)
                    self._engine = self._start_one()
            except UserError as error:
                self._failed = str(error)
                raise
            return self._engine

    def _start_one(self) -> Engine:
        """A new engine with the base and all adapters, or one that was lost again before it had them."""
        self._supervision.before_start()
        try:
            engine = Engine(self.settings, self.log, self._supervision.timeout_s)
        except EngineDied as lost:
            raise UserError(f"the SGLang engine does not start ({lost}): {self._log_tail()}") from lost
        weakref.finalize(self, engine.close)
        with suppress(EngineDied):
            self._supervision.after_start(engine)
            for served in self._served.values():
                push(engine, served)
        return engine

    def _count_restart(self, last: Engine) -> None:
        why = f"the SGLang engine was lost ({last.lost})"
        if self.restarts == self._supervision.restarts:
            raise UserError(f"{why} after {self.restarts} restarts: {self._log_tail()}")
        self.restarts += 1
        self._supervision.notice(f"{why}; restart {self.restarts} of {self._supervision.restarts}")

    def _log_tail(self) -> str:
        return f"its log ends: {log_tail(self.log)}; whole log: {self.log}"

    async def _running(self) -> Engine:
        if self._engine is not None and not self._engine.lost:
            return self._engine
        return await asyncio.get_running_loop().run_in_executor(self._starter, self.start)

    def close(self) -> None:
        """End the engine and all its processes. Requests under way end with UserError."""
        self._failed = "the SGLang sampler is closed"
        if self._engine is not None:
            self._engine.close()

    # --- adapters ------------------------------------------------------------------------------------------------

    def attach(self, model: PeftModel) -> None:
        """Serve this model's adapters."""
        self._model = model
        self.flush()

    def flush(self) -> None:
        """Push the adapters that have changed: to be called after each optimizer step. Returns once they are served.

        Requests under way end under the weights they began with.
        """
        if self._model is None:
            return
        for role in self._model.peft_config:
            seen = [(id(weight), weight._version) for weight in parameters_of(self._model, role)]
            if seen != self._seen.get(role):
                self.push_adapter(role, *adapter_state(self._model, role))
                self._seen[role] = seen

    def push_adapter(self, role: str, weights: bytes, config: dict[str, Any]) -> None:
        """Serve these weights (safetensors, PEFT's names) as `role` from now on. UserError if they cannot be loaded."""
        with self._starting:
            old = self._served.get(role)
            version = old.version + 1 if old else 0
            self._served[role] = Served(f"{role}@{version}", version, config, weights)
            if self._engine is None:
                return  # the start pushes it
            try:
                push(self._engine, self._served[role])
            except EngineDied:
                self.start()
                return
            if old:
                self._engine.submit("drop_adapter", name=old.name)  # once its last request has ended

    def version(self, role: str) -> int:
        """How often the role's adapter was pushed after the first time."""
        return self._served[role].version

    # --- requests ------------------------------------------------------------------------------------------------

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn.

        UserError: an unknown adapter, a token outside the vocabulary, a context without room, an engine that cannot be
        started again. ValueError: the session has a request under way.
        """
        self._check(request)
        run = self._runs[request.session] = Run(f"r{next(self._numbers)}")
        try:
            while not run.aborted:
                engine = await self._running()
                try:
                    return self._sample(request, await asyncio.wrap_future(self._submit(engine, run, request)))
                except EngineDied:
                    continue
                except RequestRefused as refused:
                    raise UserError(f"session {request.session}: the engine refuses the request ({refused})") from None
            return Sample((), (), "abort", 0)
        except asyncio.CancelledError:
            self.abort(request.session)
            raise
        finally:
            del self._runs[request.session]

    def abort(self, session: str) -> None:
        """End the session's request, if one is under way: it returns what it has with finish="abort"."""
        run = self._runs.get(session)
        if run is not None:
            run.aborted = True
            if self._engine is not None:
                self._engine.submit("abort", rid=run.rid)

    def release(self, session: str) -> None:
        """Forget a session: abort its request. The engine drops the keys and values that were not used for longest."""
        self.abort(session)

    def score(self, token_ids: Sequence[int], adapter: str | None) -> list[float]:
        """The engine's log-probs of all tokens but the first, at temperature 1. EngineLost is for the caller."""
        name = self._name(adapter, "score")
        rid = f"s{next(self._numbers)}"
        return self.start().call("score", rid=rid, token_ids=list(token_ids), adapter=name)["logprobs"]

    def _check(self, request: SampleRequest) -> None:
        place, n_tokens, room = f"session {request.session}", len(request.token_ids), self.settings.max_context
        if request.session in self._runs:
            raise ValueError(f"{place}: a request is under way; await it before the next turn")
        self._name(request.adapter, place)
        if n_tokens >= room:
            remedy = "shorten the context or raise max_context"
            raise UserError(f"{place}: {n_tokens} tokens leave no room in a context of {room}; {remedy}")
        if not 0 <= min(request.token_ids) <= max(request.token_ids) < self._n_vocab:
            raise UserError(f"{place}: a token id outside [0, {self._n_vocab}); use the model's own tokenizer")

    def _name(self, adapter: str | None, place: str) -> str | None:
        """The engine's name of the adapter's present version."""
        if adapter is None:
            return None
        if adapter not in self._served:
            known = ", ".join(self._served) or "none"
            raise UserError(f"{place}: no adapter {adapter!r} (loaded: {known}); load it into the model first")
        return self._served[adapter].name

    def _submit(self, engine: Engine, run: Run, request: SampleRequest) -> Future[dict[str, Any]]:
        room = self.settings.max_context - len(request.token_ids)
        sampling = {
            "max_new_tokens": min(request.max_new_tokens, room), "temperature": request.temperature,
            "sampling_seed": request.seed, "stop_token_ids": self._eos, "custom_params": {"stop": list(request.stop)},
        }  # fmt: skip
        adapter = self._name(request.adapter, request.session)
        return engine.submit(
            "generate", rid=run.rid, token_ids=list(request.token_ids), adapter=adapter, sampling=sampling
        )

    def _sample(self, request: SampleRequest, reply: dict[str, Any]) -> Sample:
        token_ids, logprobs = tuple(reply["token_ids"]), tuple(reply["logprobs"])
        finish = finish_of(reply["finish"], request)
        if len(token_ids) != len(logprobs):
            raise RuntimeError(f"session {request.session}: {len(token_ids)} tokens with {len(logprobs)} log-probs")
        return Sample(token_ids, logprobs, finish, reply["cached_tokens"])


Finish = Literal["stop", "eos", "length", "abort"]


def finish_of(reason: dict[str, Any], request: SampleRequest) -> Finish:
    """SGLang's reason in the protocol's words. UserError where the logits were not finite."""
    if reason["type"] in ("length", "abort"):
        return reason["type"]
    if isinstance(reason["matched"], int):
        return "eos"
    if reason["matched"] not in request.stop:
        raise UserError(f"session {request.session}: the engine's logits are not finite; check the base and its dtype")
    return "stop"


def push(engine: Engine, served: Served) -> None:
    try:
        engine.call("push_adapter", served.weights, name=served.name, config=served.config)
    except RequestRefused as refused:
        raise UserError(f"adapter {served.name}: SGLang cannot load it ({refused}); use plain LoRA") from None


def adapter_state(model: PeftModel, role: str) -> tuple[bytes, dict[str, Any]]:
    """A role's weights as safetensors and its configuration, as PEFT would write both."""
    # save_embedding_layers: left to itself, PEFT asks the Hugging Face hub about the base
    state = get_peft_model_state_dict(model, adapter_name=role, save_embedding_layers=False)
    config = {key: sorted(v) if isinstance(v, set) else v for key, v in model.peft_config[role].to_dict().items()}
    wanted = ("peft_type", "r", "lora_alpha", "target_modules", "lora_dropout", "bias", "use_rslora", "use_dora")
    weights = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    return save(weights), {key: config[key] for key in wanted}
