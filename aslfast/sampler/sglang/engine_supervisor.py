"""The one running engine of a sampler: started when first needed, started again when it dies."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aslfast.errors import UserError
from aslfast.sampler.sglang.engine_client import Engine, EngineDied, log_tail
from aslfast.sampler.sglang.server_args import EngineArgs


@dataclass(frozen=True)
class RestartPolicy:
    """How the engine is watched, and what is called around its starts."""

    timeout_s: float = 120.0  # without progress while requests run: a hang
    restarts: int = 3  # in the sampler's life
    log: Path | None = None  # None: a temporary file
    notify: Callable[[str], None] = lambda _: None  # called with one line about each restart
    before_start: Callable[[], None] = lambda: None  # to release the memory of the last engine
    after_start: Callable[[Engine], None] = lambda _: None  # before any adapter is pushed


class EngineSupervisor:
    """The engines of a sampler, one after the other; `push_adapters` completes the start of each."""

    def __init__(self, args: EngineArgs, policy: RestartPolicy, push_adapters: Callable[[Engine], None]) -> None:
        self.args, self._policy, self._push_adapters = args, policy, push_adapters
        self.log = policy.log or Path(tempfile.mkstemp(prefix="aslfast-engine-", suffix=".log")[1])
        self.restarts = 0  # so far
        self.engine: Engine | None = None  # the last one, dead or alive
        self.lock = threading.RLock()  # held while an engine starts: adapters may not change meanwhile
        self._failed = ""  # why there is no engine and will be none
        self._starter = ThreadPoolExecutor(1, "engine-start")

    def running(self) -> Engine:
        """Return the running engine; start one where there is none. Raise UserError where that cannot be."""
        with self.lock:
            if self._failed:
                raise UserError(self._failed)  # in all that wait, without another try each
            try:
                while self.engine is None or self.engine.died:
                    if self.engine is not None:
                        self._count_restart(self.engine)
                    self.engine = self._start()
            except UserError as error:
                self._failed = str(error)
                raise
            return self.engine

    async def running_async(self) -> Engine:
        """Return the running engine; a start happens in a thread of its own."""
        if self.engine is not None and not self.engine.died:
            return self.engine
        return await asyncio.get_running_loop().run_in_executor(self._starter, self.running)

    def close(self) -> None:
        """End the engine and all its processes; none is started again."""
        self._failed = "the SGLang sampler is closed"
        if self.engine is not None:
            self.engine.close()

    def _start(self) -> Engine:
        """Return a new engine with the base and all adapters, or one that died again before it had them."""
        self._policy.before_start()
        try:
            engine = Engine(self.args, self.log, self._policy.timeout_s)
        except EngineDied as died:
            raise UserError(f"the SGLang engine does not start ({died}): {self._log_tail()}") from died
        weakref.finalize(self, engine.close)
        with suppress(EngineDied):
            self._policy.after_start(engine)
            self._push_adapters(engine)
        return engine

    def _count_restart(self, last: Engine) -> None:
        why = f"the SGLang engine died ({last.died})"
        if self.restarts == self._policy.restarts:
            raise UserError(f"{why} after {self.restarts} restarts: {self._log_tail()}")
        self.restarts += 1
        self._policy.notify(f"{why}; restart {self.restarts} of {self._policy.restarts}")

    def _log_tail(self) -> str:
        return f"its log ends: {log_tail(self.log)}; whole log: {self.log}"
