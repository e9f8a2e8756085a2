"""What the learner's benchmark measures: bases, their trajectories, and the sides of a step over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import transformers
from peft import PeftModel

from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Trajectory
from aslfast.files.shipped import LAB_BASE
from aslfast.learner.batch import make_batch
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import load_base
from bench.learner.padded_step import PaddedStep
from bench.learner.variants import ROLE, Side

TEMPERATURE, LOSS = 1.0, LossConfig()


@dataclass(frozen=True)
class Setup:
    """A base, the lengths of its trajectories, and the sizes of a step's batches."""

    lengths: str  # file in bench/shapes
    rank: int
    micro_batch_tokens: int
    padded_rows: int  # of a padded micro-batch
    activation_checkpointing: Literal["none", "selective", "layers"] = "none"
    base: Mapping[str, Any] = field(default_factory=dict)  # of Qwen2Config; empty: the lab's own base

    def rehearsal(self) -> Setup:
        """Return the setup with a base small enough for a test."""
        return replace(self, base=REHEARSAL, micro_batch_tokens=4096, padded_rows=2) if self.base else self


SETUPS = {
    "tiny": Setup("tiny_policy.json", 16, 4096, 8),
    "qwen2.5-7b": Setup("search.json", 32, 16384, 8, "layers", {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
    }),
}  # fmt: skip
REHEARSAL: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


def adapted_model(setup: Setup, device: str) -> PeftModel:
    """Return the setup's base with one adapter, whose first layer is not zero, so that all gradients are not."""
    model = lora.add_adapters(_load_base(setup, device), setup.rank, 2.0 * setup.rank, 0, (ROLE,))
    torch.nn.init.normal_(lora.parameters_of(model, ROLE)[1], std=0.01)  # B of the first layer
    return model


def _load_base(setup: Setup, device: str) -> transformers.PreTrainedModel:
    if not setup.base:
        return load_base(LAB_BASE, torch.float32, device)[0]
    config = transformers.Qwen2Config(**setup.base, max_position_embeddings=32768)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return transformers.Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def sides_of(setup: Setup, model: PeftModel) -> dict[str, Side]:
    """Return every way to take the step, by name."""

    def learner(share_prefix: Literal["auto", "never"]) -> Learner:
        # a learning rate that leaves the weights where they are: every repeat is the same step
        config = LearnerConfig(
            learning_rate=1e-12, micro_batch_tokens=setup.micro_batch_tokens, share_prefix=share_prefix,
            activation_checkpointing=setup.activation_checkpointing,
        )  # fmt: skip
        return Learner(model, config, LOSS, TEMPERATURE, (ROLE,))

    def padded(by_length: bool) -> Side:
        clip = (LOSS.clip_low, LOSS.clip_high)
        return Side(learner("never"), PaddedStep(model, TEMPERATURE, setup.padded_rows, by_length, clip))

    return {
        "packed, shared": Side(learner("auto")),
        "packed": Side(learner("never")),
        "padded by length": padded(True),
        "padded": padded(False),
    }


def on_policy(learner: Learner, trajectories: list[Trajectory]) -> list[Trajectory]:
    """Return the trajectories with the model's own log-probs as the sampler's: ratios are 1, nothing is clipped."""
    learner.model.set_adapter(ROLE)
    found = []
    for t in trajectories:
        with torch.no_grad():
            logp = iter(learner.logprobs(make_batch([t], [0.0]).to(learner.model.device)).tolist())
        found.append(replace(t, logprobs=tuple(next(logp) if sampled else 0.0 for sampled in t.loss_mask)))
    return found
