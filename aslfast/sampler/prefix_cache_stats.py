"""How much of every prompt need not have been computed again, and how much was not: reusable against reused tokens.

A token of a request's context is *reusable* if, when the request is issued, a finished request of the same adapter
version has computed a sequence that begins with the same tokens up to and including it: an earlier turn of the same
session, or another session with a common beginning. The last token of a context never is, since its logits are asked
for; nor is the last token that a request sampled, which no forward pass has read. It was *reused* if the sampler says
so (`Sample.cached_tokens`). Keys and values depend on the adapter, so nothing is reusable across adapters or versions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aslfast.sampler.protocol import Sample, Sampler, SampleRequest

MOST_TOKENS = 2**24  # that are remembered of one adapter: 64 MB; the oldest sessions are forgotten first


@dataclass(slots=True)
class Reuse:
    """Tokens of one adapter's requests.

    reusable_own: by an earlier turn of the same session alone. reused: may pass what was reusable, since requests under
    way share beginnings too. missed: reusable and computed again all the same.
    """

    requests: int = 0
    context: int = 0
    reusable: int = 0
    reusable_own: int = 0
    reused: int = 0
    missed: int = 0


class Prefixes:
    """The sequences that sessions have computed; finds the longest beginning that one of them shares with another.

    Kept sorted: of all sequences, a neighbour in order shares the longest beginning. As big-endian bytes they sort
    like their tokens, at four bytes a token.
    """

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most_bytes = 4 * most_tokens
        self._n_bytes = 0
        self._of_session: dict[str, bytes] = {}  # the oldest first
        self._sorted: list[bytes] = []

    def put(self, session: str, token_ids: Sequence[int]) -> None:
        """In place of what the session had: its contexts extend one another."""
        self._remove(session)
        sequence = _bytes(token_ids)
        self._of_session[session] = sequence
        self._n_bytes += len(sequence)
        insort(self._sorted, sequence)
        while self._n_bytes > self._most_bytes:
            self._remove(next(iter(self._of_session)))

    def longest(self, session: str, token_ids: Sequence[int]) -> tuple[int, int]:
        """Tokens shared with any sequence, and with the session's own."""
        wanted = _bytes(token_ids)
        at = bisect_left(self._sorted, wanted)
        neighbours = self._sorted[max(0, at - 1) : at + 1]
        own = self._of_session.get(session, b"")
        return max((_common(wanted, other) for other in neighbours), default=0), _common(wanted, own)

    def _remove(self, session: str) -> None:
        sequence = self._of_session.pop(session, None)
        if sequence is not None:
            self._n_bytes -= len(sequence)
            del self._sorted[bisect_left(self._sorted, sequence)]


def _bytes(token_ids: Sequence[int]) -> bytes:
    return np.asarray(array("I", token_ids)).astype(">u4").tobytes()


def _common(left: bytes, right: bytes) -> int:
    """Tokens of the longest common beginning."""
    n = min(len(left), len(right)) // 4
    differ = np.frombuffer(left, ">u4", n) != np.frombuffer(right, ">u4", n)
    return int(differ.argmax()) if differ.any() else n


@dataclass
class PrefixCacheMeter:
    """A `Sampler` that passes everything on and counts, by adapter. `version`: the adapters' versions as they rise."""

    sampler: Sampler
    version: Mapping[str, int] = field(default_factory=dict)
    _totals: dict[str, Reuse] = field(default_factory=dict)
    _computed: dict[str, tuple[int, Prefixes]] = field(default_factory=dict)  # of one version

    async def generate(self, request: SampleRequest) -> Sample:
        name = request.adapter or "base"
        computed = self._prefixes(name)
        reusable, own = computed.longest(request.session, request.token_ids)
        sample = await self.sampler.generate(request)
        computed.put(request.session, request.token_ids + sample.token_ids[:-1])
        n = len(request.token_ids)
        reusable, own = min(reusable, n - 1), min(own, n - 1)
        total = self._totals.setdefault(name, Reuse())
        total.requests += 1
        total.context += n
        total.reusable += reusable
        total.reusable_own += own
        total.reused += sample.cached_tokens
        total.missed += max(0, reusable - sample.cached_tokens)
        return sample

    def take(self) -> dict[str, Reuse]:
        """The totals by adapter since they were last taken. What can be reused is remembered on."""
        totals, self._totals = self._totals, {}
        return dict(sorted(totals.items()))

    def put(self, totals: Mapping[str, Reuse]) -> None:
        """In place of the totals so far: those of all ranks."""
        self._totals = dict(totals)

    def forget(self) -> None:
        """A step begins: what was computed before it is not counted on, so that a resumed run counts the same."""
        self._totals, self._computed = {}, {}

    def release(self, session: str) -> None:
        self.sampler.release(session)

    def abort(self, session: str) -> None:
        self.sampler.abort(session)

    def _prefixes(self, name: str) -> Prefixes:
        version = self.version.get(name, 0)
        known = self._computed.get(name)
        if known is None or known[0] != version:
            known = self._computed[name] = (version, Prefixes())
        return known[1]
