"""Fits a run into one GPU: what is left goes to the key/value pool, and the settings that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aslfast.config import RunConfig
from aslfast.errors import UserError
from aslfast.preflight import memory_model as memory
from aslfast.preflight.architectures import ModelShape
from aslfast.preflight.memory_model import GB, Part

MIB = 1 << 20
CARDS = {  # as nvidia-smi shows them
    "4090": 24_564 * MIB, "l40s": 46_068 * MIB, "a100": 81_920 * MIB, "h100": 81_559 * MIB, "h200": 143_771 * MIB,
}  # fmt: skip
TYPICAL_SHARE = 0.25  # of max_context: how long a trajectory under way is on average, assumed

Settings = Mapping[str, Any]  # "table.key" of the configuration -> value


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`config` has the `settings` that follow in it. Where `fits` is false the parts are the least that a run takes."""

    card: Card
    shape: ModelShape
    config: RunConfig
    settings: Settings
    kv_tokens: int
    parts: tuple[Part, ...]

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.n_bytes <= self.card.n_bytes

    def rows(self, tokens: int) -> int:
        """How many trajectories of so many tokens the key/value pool holds."""
        return self.kv_tokens // tokens


def card_of(name: str) -> Card:
    """A card by its name, or a size: 80GB is 80 x 10^9 bytes, less than any card sold so has. Raises UserError."""
    text = name.strip().lower()
    if text in CARDS:
        return Card(name, CARDS[text])
    number = text.removesuffix("gb")
    if number == text or not number.isdecimal() or int(number) == 0:
        raise UserError(f"--gpu {name}: neither a size, such as 80GB, nor one of {', '.join(CARDS)}")
    return Card(name, int(number) * GB)


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    for name, value in settings.items():
        table, key = name.split(".")
        config = replace(config, **{table: replace(getattr(config, table), **{key: value})})
    return config


def typical_tokens(config: RunConfig) -> int:
    return max(1, int(TYPICAL_SHARE * config.sampler.max_context))


def row_tokens(config: RunConfig) -> int:
    """What a row needs of the pool: an engine's pages go to whoever needs them, the local cache has whole rows."""
    return typical_tokens(config) if memory.has_engine(config) else config.sampler.max_context


def make_plan(config: RunConfig, shape: ModelShape, card: Card) -> MemoryPlan:
    """The largest micro-batch, up to the configured one, that leaves all rows their keys and values."""
    least = least_plan(config, shape, card)
    if not least.fits:
        return least
    settings = _settings(config, shape, card)
    chosen = with_settings(config, settings)
    kv_tokens = _room(chosen, shape, card)
    if memory.has_engine(config):
        settings["sampler.gpu_memory_fraction"] = _gpu_memory(chosen, shape, card, kv_tokens)
    else:
        kv_tokens = min(kv_tokens, chosen.sampler.max_running_requests * chosen.sampler.max_context)
    return _plan(with_settings(chosen, settings), shape, card, kv_tokens, settings)


def least_plan(config: RunConfig, shape: ModelShape, card: Card) -> MemoryPlan:
    """The smallest micro-batch, one row, and keys and values of one full context."""
    settings = {"learner.micro_batch_tokens": list(_micro_batches(config))[-1], "sampler.max_running_requests": 1}
    return _plan(with_settings(config, settings), shape, card, config.sampler.max_context, settings)


def _settings(config: RunConfig, shape: ModelShape, card: Card) -> dict[str, Any]:
    per_row, tokens, room = row_tokens(config), 0, 0
    for tokens in _micro_batches(config):
        room = _room(with_settings(config, {"learner.micro_batch_tokens": tokens}), shape, card)
        if room >= config.sampler.max_running_requests * per_row:
            break
    return {
        "learner.micro_batch_tokens": tokens,
        "sampler.max_running_requests": max(1, min(config.sampler.max_running_requests, room // per_row)),
    }


def _micro_batches(config: RunConfig) -> Iterator[int]:
    """From the configured one down by halves, to that of one full trajectory."""
    tokens, least = config.learner.micro_batch_tokens, config.sampler.max_context
    while tokens > least:
        yield tokens
        tokens //= 2
    yield min(config.learner.micro_batch_tokens, least)


def _fixed_parts(config: RunConfig, shape: ModelShape, card: Card) -> tuple[Part, ...]:
    """Everything but the key/value pool."""
    return (
        memory.base_weights(shape, config), memory.adapters(shape, config), memory.optimizer(shape, config),
        memory.gradients(shape), memory.activations(shape, config), memory.head(shape, config),
        memory.sampling(shape, config), memory.contexts(config), memory.reserve(card.n_bytes),
    )  # fmt: skip


def _room(config: RunConfig, shape: ModelShape, card: Card) -> int:
    """Tokens of the key/value pool that fit beside everything else."""
    fixed = sum(part.n_bytes for part in _fixed_parts(config, shape, card))
    return max(0, card.n_bytes - fixed) // memory.kv_bytes(shape, config)


def _plan(config: RunConfig, shape: ModelShape, card: Card, kv_tokens: int, settings: Settings) -> MemoryPlan:
    parts = (*_fixed_parts(config, shape, card), memory.kv_pool(shape, config, kv_tokens))
    return MemoryPlan(card, shape, config, settings, kv_tokens, parts)


def _gpu_memory(config: RunConfig, shape: ModelShape, card: Card, kv_tokens: int) -> float:
    """The engine's base, adapters and pool, as a share of what is free when it starts (SGLang's mem_fraction_static);
    rounded down. With a shared base the engine starts before the learner holds anything."""
    engine = memory.engine_bytes(shape, config) + kv_tokens * memory.kv_bytes(shape, config)
    before = 0 if memory.shares_base(config) else memory.learner_bytes(shape, config)
    return int(1000 * engine / (card.n_bytes - memory.contexts(config).n_bytes - before)) / 1000
