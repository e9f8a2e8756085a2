"""What the benchmark of a round measures: settings laid over a recipe, by shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aslfast.config import RunConfig, load_recipe
from bench.rollout.bases import save_endless_base
from bench.rollout.lengths import Lengths


@dataclass(frozen=True)
class RoundSetup:
    """What a shape lays over the recipe. lengths: forced ones, if the base has random weights and so ends no turn."""

    overrides: tuple[str, ...]
    base: str = ""  # a name of bench.rollout.bases.SHAPES; empty: the recipe's own
    lengths: Lengths | None = None

    def config(self, recipe: str, overrides: Sequence[str], folder: Path) -> RunConfig:
        """Return the configuration; a base that it needs is written to `folder`."""
        config = load_recipe(recipe, [*self.overrides, *overrides])
        if not self.base:
            return config
        base = save_endless_base(self.base, config.model.dtype, config.model.device, folder / "base")
        return replace(config, model=replace(config.model, path=str(base)))


SMALL = (
    "generator.steps=1", "generator.prompts_per_step=4", "generator.group_size=3", "generator.rollouts_per_question=2",
    "generator.self_checks=1", "generator.min_acceptance=0", "generator.hops=[1]", "grm.steps=1",
    "grm.prompts_per_step=2", "grm.group_size=3", "grm.label=reference", "policy.steps=1", "policy.prompts_per_step=2",
    "policy.group_size=3",
)  # fmt: skip
ON_A_GPU = (
    "generator.steps=1", "generator.prompts_per_step=16", "generator.group_size=4",
    "generator.rollouts_per_question=10", "generator.self_checks=5", "generator.min_acceptance=0", "grm.steps=2",
    "grm.prompts_per_step=32", "grm.group_size=4", "policy.steps=2", "policy.prompts_per_step=32",
    "policy.group_size=4", "model.device=cuda", "model.dtype=bfloat16", "sampler.kind=sglang",
    "sampler.max_running_requests=128", "sampler.max_context=8192", "lora.rank=32", "lora.alpha=64.0",
    "learner.micro_batch_tokens=16384", "learner.activation_checkpointing=layers", "learner.learning_rate=3e-5",
    "tool.top_k=1",
)  # fmt: skip
SETUPS = {
    "tiny": RoundSetup(("threads=1",)),
    "qwen2.5-7b": RoundSetup(ON_A_GPU, "random-7b", Lengths(median_tokens=80.0, max_tokens=1024, max_total=4096)),
}
REHEARSALS = {
    "tiny": RoundSetup(("threads=1", *SMALL)),
    "qwen2.5-7b": RoundSetup(
        ("threads=1", *SMALL, "sampler.max_context=1024", "tool.top_k=1"), "random-tiny", Lengths()
    ),
}
