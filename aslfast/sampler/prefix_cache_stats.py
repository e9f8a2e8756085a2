"""Prefix-cache statistics: how many context tokens could have been reused, and how many were.

A token of a request's context is *reusable* if, when the request is issued, a finished request of the same adapter
version has computed a sequence that begins with the same tokens up to and including it: an earlier turn of the same
session, or another session with a common prefix. The last token of a context never is, since its logits are needed;
nor is the last token that a request sampled, which no forward pass has read. It was *reused* if the sampler says so
(`Sample.cached_tokens`). Keys and values depend on the adapter, so nothing is reusable across adapters or versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aslfast.sampler.in_flight import InFlight
from aslfast.sampler.prefix_index import PrefixIndex
from aslfast.sampler.protocol import Sample, Sampler, SampleRequest


@dataclass(slots=True)
class PrefixCacheCounts:
    """Tokens of one adapter's requests.

    reusable_own: by an earlier turn of the same session alone. reused: may exceed what was reusable, since running
    requests share prefixes too. missed: reusable and computed again.
    """

    requests: int = 0
    context: int = 0
    reusable: int = 0
    reusable_own: int = 0
    reused: int = 0
    missed: int = 0

    def add(self, n_context: int, reusable: tuple[int, int], reused: int) -> None:
        """Count one request. reusable: by any session, and by its own."""
        self.requests += 1
        self.context += n_context
        self.reusable += reusable[0]
        self.reusable_own += reusable[1]
        self.reused += reused
        self.missed += max(0, reusable[0] - reused)


@dataclass
class PrefixCacheMeter:
    """A `Sampler` that passes everything on and counts, by adapter. `version`: the adapters' versions as they rise."""

    sampler: Sampler
    version: Mapping[str, int] = field(default_factory=dict)
    in_flight: InFlight = field(default_factory=InFlight)
    _totals: dict[str, PrefixCacheCounts] = field(default_factory=dict)
    _computed: dict[str, tuple[int, PrefixIndex[str]]] = field(default_factory=dict)  # of one version

    async def generate(self, request: SampleRequest) -> Sample:
        """Sample one turn and count it."""
        name = request.adapter or "base"
        computed = self._prefixes(name)
        reusable, own = computed.longest(request.token_ids)[0], computed.own(request.session, request.token_ids)
        with self.in_flight.running(len(request.token_ids)):
            sample = await self.sampler.generate(request)
        computed.put(request.session, request.token_ids + sample.token_ids[:-1])
        n = len(request.token_ids)
        totals = self._totals.setdefault(name, PrefixCacheCounts())
        totals.add(n, (min(reusable, n - 1), min(own, n - 1)), sample.cached_tokens)
        return sample

    def take(self) -> dict[str, PrefixCacheCounts]:
        """Return the totals by adapter since the last call; the computed sequences are kept."""
        totals, self._totals = self._totals, {}
        return dict(sorted(totals.items()))

    def put(self, totals: Mapping[str, PrefixCacheCounts]) -> None:
        """Replace the totals: by those of all ranks."""
        self._totals = dict(totals)

    def forget(self) -> None:
        """Begin a step without the sequences computed before it, so that a resumed run counts the same."""
        self._totals, self._computed = {}, {}

    def start(self) -> None:
        self.sampler.start()

    def release(self, session: str) -> None:
        self.sampler.release(session)

    def abort(self, session: str) -> None:
        self.sampler.abort(session)

    def flush(self) -> None:
        self.sampler.flush()

    def close(self) -> None:
        self.sampler.close()

    def _prefixes(self, name: str) -> PrefixIndex[str]:
        version = self.version.get(name, 0)
        known = self._computed.get(name)
        if known is None or known[0] != version:
            known = self._computed[name] = (version, PrefixIndex())
        return known[1]
