"""The settings of a supervised fine-tuning, checked where they are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from aslfast.config.bounds import Bounds, fraction, number, positive
from aslfast.config.schema import DTYPES, MOST_TOKENS, Dtype, LearnerConfig, LoraConfig, ModelConfig, RunConfig
from aslfast.config.validate import NAME
from aslfast.errors import UserError

CHOICES = {
    "schedule": ("linear", "constant"),
    "dtype": DTYPES,
}


@dataclass(frozen=True, slots=True)
class SftConfig:
    """What to learn from, and how. Each field is an option of `aslfast sft`. Raise UserError for one out of bounds."""

    model: str  # folder; "lab": the tiny base that ships with aslfast
    data: str  # trajectories.parquet or chat.jsonl
    role: str = "policy"  # of the adapter, and of the rows of a file of trajectories
    init_adapter: str = ""  # PEFT folder to start from; its rank and alpha are kept
    lr: float = positive(2e-4, 10.0)
    schedule: str = "linear"  # after the warm-up: falling to 0, or constant
    epochs: int = number(2, 1, 10_000)
    batch_size: int = positive(16, 100_000)  # rows an optimizer step
    rank: int = positive(32, 4096)
    alpha: float = positive(64.0, 1e6)
    dev_fraction: float = fraction(0.1)  # of the prompts, held out of training
    micro_batch_tokens: int = positive(4096, MOST_TOKENS)  # of one forward pass; a shared prefix counts once
    dtype: str = "float32"  # of the base; the adapter is always float32
    seed: int = number(0, 0, 2**63 - 1)
    threads: int = number(0, 0, 4096)  # of torch on the CPU; 0: as torch chooses
    prompt_date: str = ""  # ISO date for chat templates that show one: the day of the start, kept when it is resumed

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            option, value = f"--{item.name.replace('_', '-')}", getattr(self, item.name)
            bounds = item.metadata.get("bounds")
            if isinstance(bounds, Bounds) and value not in bounds:
                raise UserError(f"{option} is {value}; it must be {bounds}")
            if item.name in CHOICES and value not in CHOICES[item.name]:
                raise UserError(f"{option} is {value!r}; use one of {', '.join(CHOICES[item.name])}")
        if not NAME.fullmatch(self.role):
            raise UserError(f"--role is {self.role!r:.80}; use letters, digits, - and _, at most 40")

    def run_config(self) -> RunConfig:
        """Return the part of a run's configuration that opening the model and the learner takes."""
        dtype: Dtype = self.dtype  # pyright: ignore[reportAssignmentType]
        return RunConfig(
            seed=self.seed,
            threads=self.threads,
            model=ModelConfig(path=self.model, dtype=dtype, prompt_date=self.prompt_date),
            lora=LoraConfig(self.rank, self.alpha),
            learner=LearnerConfig(learning_rate=self.lr, micro_batch_tokens=self.micro_batch_tokens),
        )


def learning_rate(config: SftConfig, step: int, total: int) -> float:
    """Return the rate of a step (from 0) of `total`: a warm-up over 3% of them, then the schedule.

    Linear: lr (total - step) / (total - warm-up), so that the step after the last one would have 0.
    """
    warmup = max(1, round(0.03 * total))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    left = (total - step) / (total - warmup) if config.schedule == "linear" else 1.0
    return config.lr * left
