"""The work of `aslfast plan`: a run's memory on one GPU, part by part, and the settings that follow."""

from __future__ import annotations

from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table

from aslfast.cli.options import print_json
from aslfast.cli.progress import quiet_libraries, stdout
from aslfast.config import RunConfig
from aslfast.errors import UserError
from aslfast.models.context_limit import check_context
from aslfast.trainer.preflight.architectures import read_shape
from aslfast.trainer.preflight.dry_run import schedules
from aslfast.trainer.preflight.memory_fit import MemoryPlan, card_of, make_plan, typical_tokens
from aslfast.trainer.preflight.memory_model import GB, has_engine
from aslfast.trainer.preflight.memory_suggestions import formatted, refusal, suggest, toml_value


def show(config: RunConfig, model: str | None, gpu: str, json_wanted: bool) -> None:
    """Print the plan of a run, with `model` in place of the configured one if given.

    Raise UserError, after printing, where the run cannot fit.
    """
    quiet_libraries()
    card = card_of(gpu)
    shape = read_shape(model or config.model.path, config.lora.rank)
    check_context(shape.limit, config.sampler.max_context)
    plan = make_plan(config, shape, card)
    print_json(as_json(plan, config)) if json_wanted else print_plan(plan, config)
    if not plan.fits:
        raise UserError(refusal(plan, config))


def as_json(plan: MemoryPlan, config: RunConfig) -> dict[str, object]:
    """Return what `--json` prints."""
    context, typical = config.sampler.max_context, typical_tokens(config)
    return {
        "recipe": config.recipe,
        "model": plan.shape.name,
        "adapted": plan.shape.adapted,
        "gpu": plan.card.name,
        "gpu_bytes": plan.card.n_bytes,
        "fits": plan.fits,
        "bytes": plan.n_bytes,
        "parts": [asdict(part) for part in plan.parts],
        "kv_tokens": plan.kv_tokens,
        "trajectories": {
            "max_context": plan.trajectories(context),
            "typical": plan.trajectories(typical),
            "typical_tokens": typical,
        },
        "settings": dict(plan.settings) if plan.fits else {},
        "suggestions": [] if plan.fits else [asdict(found) for found in suggest(config, plan.shape, plan.card)],
        "measured": False,
    }


def print_plan(plan: MemoryPlan, config: RunConfig) -> None:
    """Print the parts, how many trajectories fit, and the settings to copy."""
    shape = plan.shape
    n = config.distributed.model_parallel_size
    cards = "one GPU" if n == 1 else f"each of {n} GPUs"
    print(
        f"{config.recipe} on {cards} of {plan.card.n_bytes / GB:.1f} GB ({plan.card.name}), "
        f"sampler {config.sampler.kind}\n{shape.name}: {shape.kind}, {shape.layers} layers, hidden {shape.hidden:,}, "
        f"{shape.parameters:,} parameters in {config.model.dtype}\n"
        f"adapters of rank {config.lora.rank} on {shape.adapted}"
    )
    print("".join(f"{line}\n" for line in schedules(config)), end="")
    stdout().print(_table(plan))
    if plan.fits:
        print(_room(plan, config))
        print("Settings that follow:")
        for key, value in plan.settings.items():
            print(f"  --set {key}={toml_value(value)}{_before(config, key, value)}")
    else:
        print("It does not fit, with the smallest micro-batch and one running request. What helps:")
        for suggestion in suggest(config, shape, plan.card):
            print(f"  {formatted(suggestion)}")
    print("Peaks on a GPU: not measured.")


def _room(plan: MemoryPlan, config: RunConfig) -> str:
    context, typical = config.sampler.max_context, typical_tokens(config)
    whole = f"The KV pool holds {plan.trajectories(context):,} trajectories of max_context ({context:,} tokens)"
    quarter = f", {plan.trajectories(typical):,} of a quarter of it (assumed typical)" if has_engine(config) else ""
    return f"{whole}{quarter}."


def _before(config: RunConfig, key: str, value: object) -> str:
    """Return a comment with the configured value, if it differs."""
    table, name = key.split(".")
    before = getattr(getattr(config, table), name)
    return "" if before == value else f"   # now {toml_value(before)}"


def _table(plan: MemoryPlan) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("part", "all" if plan.fits else "at least", no_wrap=True)
    table.add_column("GB", f"{plan.n_bytes / GB:.2f}", justify="right", no_wrap=True)
    table.add_column("how it is counted", f"of {plan.card.n_bytes / GB:.2f} on the card")
    for part in plan.parts:
        table.add_row(part.name, f"{part.n_bytes / GB:.2f}", part.how)
    return table
