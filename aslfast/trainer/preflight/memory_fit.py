"""A run fitted into one GPU: the memory left over goes to the KV pool, and settings follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from aslfast.config import RunConfig
from aslfast.errors import UserError
from aslfast.limits import MOST_GPU_GB
from aslfast.trainer.preflight import memory_model as memory
from aslfast.trainer.preflight.architectures import ModelShape
from aslfast.trainer.preflight.memory_model import GB, Part

MIB = 1 << 20
CARDS = {  # as nvidia-smi shows them
    "4090": 24_564 * MIB, "l40s": 46_068 * MIB, "a100": 81_920 * MIB, "h100": 81_559 * MIB, "h200": 143_771 * MIB,
}  # fmt: skip
TYPICAL_FRACTION = 0.25  # of max_context: how long a running trajectory is on average, assumed

Settings = Mapping[str, int | float | bool | str]  # "table.key" of the configuration -> value


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its memory."""

    name: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The parts of a run on a card. `config` includes `settings`; where `fits` is false the parts are the least."""

    card: Card
    shape: ModelShape
    config: RunConfig
    settings: Settings
    kv_tokens: int
    parts: tuple[Part, ...]

    @property
    def n_bytes(self) -> int:
        """The bytes of all parts."""
        return sum(part.n_bytes for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether the parts fit the card."""
        return self.n_bytes <= self.card.n_bytes

    def trajectories(self, tokens: int) -> int:
        """Return how many trajectories of so many tokens the KV pool holds."""
        return self.kv_tokens // tokens


def card_of(name: str) -> Card:
    """Return a card by its name or size: 80GB is 80 x 10^9 bytes, less than such a card has. Raise UserError."""
    text = name.strip().lower()
    if text in CARDS:
        return Card(name, CARDS[text])
    number = text.removesuffix("gb")
    if number == text or not number.isdecimal() or len(number) > 9 or not 1 <= int(number) <= MOST_GPU_GB:
        known = f"neither a size, such as 80GB, nor one of {', '.join(CARDS)}"
        raise UserError(f"--gpu {name:.80}: {known}; at most {MOST_GPU_GB:,}GB")
    return Card(name, int(number) * GB)


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    """Return the configuration with these settings in it."""
    for name, value in settings.items():
        table, key = name.split(".")
        config = replace(config, **{table: replace(getattr(config, table), **{key: value})})
    return config


def typical_tokens(config: RunConfig) -> int:
    """Return the tokens of a running trajectory on average: assumed."""
    return max(1, int(TYPICAL_FRACTION * config.sampler.max_context))


def request_tokens(config: RunConfig) -> int:
    """Return the KV pool's tokens for a running request: pages in an engine, a whole context in the local cache."""
    return typical_tokens(config) if memory.has_engine(config) else config.sampler.max_context


def make_plan(config: RunConfig, shape: ModelShape, card: Card) -> MemoryPlan:
    """Return the plan with the largest micro-batch, up to the configured one, that leaves all requests their KV."""
    least = least_plan(config, shape, card)
    if not least.fits:
        return least
    settings = _settings(config, shape, card)
    chosen = with_settings(config, settings)
    kv_tokens = _room(chosen, shape, card)
    if memory.has_engine(config):
        settings["sampler.gpu_memory_fraction"] = _gpu_memory_fraction(chosen, shape, card, kv_tokens)
    else:
        kv_tokens = min(kv_tokens, chosen.sampler.max_running_requests * chosen.sampler.max_context)
    return _plan(with_settings(chosen, settings), shape, card, kv_tokens, settings)


def least_plan(config: RunConfig, shape: ModelShape, card: Card) -> MemoryPlan:
    """Return the plan with the smallest micro-batch, one running request, and the KV of one full context."""
    settings = {"learner.micro_batch_tokens": list(_micro_batches(config))[-1], "sampler.max_running_requests": 1}
    return _plan(with_settings(config, settings), shape, card, config.sampler.max_context, settings)


def _settings(config: RunConfig, shape: ModelShape, card: Card) -> dict[str, int | float | bool | str]:
    per_request, tokens, room = request_tokens(config), 0, 0
    for tokens in _micro_batches(config):
        room = _room(with_settings(config, {"learner.micro_batch_tokens": tokens}), shape, card)
        if room >= config.sampler.max_running_requests * per_request:
            break
    return {
        "learner.micro_batch_tokens": tokens,
        "sampler.max_running_requests": max(1, min(config.sampler.max_running_requests, room // per_request)),
    }


def _micro_batches(config: RunConfig) -> Iterator[int]:
    """Yield sizes in tokens, from the configured one down by halves, to one full trajectory."""
    tokens, least = config.learner.micro_batch_tokens, config.sampler.max_context
    while tokens > least:
        yield tokens
        tokens //= 2
    yield min(config.learner.micro_batch_tokens, least)


def _fixed_parts(config: RunConfig, shape: ModelShape, card: Card) -> tuple[Part, ...]:
    """Return all parts except the KV pool."""
    return (
        memory.base_weights(shape, config), memory.adapters(shape, config), memory.optimizer(shape, config),
        memory.gradients(shape), memory.activations(shape, config), memory.head(shape, config),
        memory.sampling(shape, config), memory.contexts(config), memory.reserve(card.n_bytes),
    )  # fmt: skip


def _room(config: RunConfig, shape: ModelShape, card: Card) -> int:
    """Return the tokens of the KV pool that fit next to all other parts."""
    fixed = sum(part.n_bytes for part in _fixed_parts(config, shape, card))
    return max(0, card.n_bytes - fixed) // memory.kv_bytes(shape, config)


def _plan(config: RunConfig, shape: ModelShape, card: Card, kv_tokens: int, settings: Settings) -> MemoryPlan:
    parts = (*_fixed_parts(config, shape, card), memory.kv_pool(shape, config, kv_tokens))
    return MemoryPlan(card, shape, config, settings, kv_tokens, parts)


def _gpu_memory_fraction(config: RunConfig, shape: ModelShape, card: Card, kv_tokens: int) -> float:
    """Return the engine's base, adapters and KV pool as a fraction of the memory that is free when it starts.

    SGLang's mem_fraction_static, rounded down. With a shared base the engine starts before the learner holds anything.
    """
    engine = memory.engine_bytes(shape, config) + kv_tokens * memory.kv_bytes(shape, config)
    before = 0 if memory.shares_base(config) else memory.learner_bytes(shape, config)
    return int(1000 * engine / (card.n_bytes - memory.contexts(config).n_bytes - before)) / 1000
