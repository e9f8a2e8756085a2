"""How many requests, and tokens of context, a sampler has at work at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class InFlight:
    """Counts requests from when they are issued until they are answered, waiting ones included."""

    requests: int = 0
    tokens: int = 0
    _most: tuple[int, int] = (0, 0)
    _request_s: float = 0.0  # summed over the requests
    _busy_s: float = 0.0  # with any
    _since: float = field(default_factory=time.perf_counter)

    @contextmanager
    def running(self, tokens: int) -> Iterator[None]:
        """Count a request with so many tokens of context for as long as the block takes."""
        self._change(1, tokens)
        try:
            yield
        finally:
            self._change(-1, -tokens)

    def take(self) -> dict[str, float]:
        """Return the most requests and tokens at once, and the mean of the requests while there were any, since the
        last call."""
        self._change(0, 0)
        mean, most = self._request_s / self._busy_s if self._busy_s else 0.0, self._most
        self._most, self._request_s, self._busy_s = (self.requests, self.tokens), 0.0, 0.0
        return {"requests": most[0], "tokens": most[1], "mean_requests": mean}

    def _change(self, requests: int, tokens: int) -> None:
        now = time.perf_counter()
        if self.requests:
            self._busy_s += now - self._since
            self._request_s += self.requests * (now - self._since)
        self._since, self.requests, self.tokens = now, self.requests + requests, self.tokens + tokens
        self._most = max(self._most[0], self.requests), max(self._most[1], self.tokens)
