"""The model that the learner trains: log-probs of packed batches, with the active adapter or the base alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from aslfast.config.schema import LearnerConfig
from aslfast.errors import UserError
from aslfast.learner import attention
from aslfast.learner.batch import Batch
from aslfast.models.activation_checkpointing import checkpoint_activations
from aslfast.models.context_limit import context_limit
from aslfast.models.output_head import measure_transform
from aslfast_kernels import linear_logprob


class PackedModel:
    """A PEFT model whose forward pass takes packed batches; UserError where its attention is not supported.

    temperature: of the sampler, so that log-probs are those of the distribution that was sampled from.
    """

    def __init__(self, model: PeftModel, config: LearnerConfig, temperature: float) -> None:
        self.base: Any = model.get_base_model()
        attention.check_architecture(self.base)
        self.limit = context_limit(self.base.get_decoder().config)
        self._transform = measure_transform(self.base)
        self.set_temperature(temperature)
        self.attention = attention.choose_backend(config.attention, model.device, self.base.dtype)
        self.model, self.activation_checkpointing = model, config.activation_checkpointing

    def set_temperature(self, temperature: float) -> None:
        """Take the log-probs of a distribution that was sampled at this temperature from now on."""
        self.temperature, self.softcap = self._transform.of_bare_logits(temperature)

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """Switch to packed attention, activation checkpointing and adapter inputs in the base's dtype.

        All is undone at the end, since the sampler uses the same modules.
        """
        config = self.base.get_decoder().config
        before, config._attn_implementation = config._attn_implementation, attention.NAME
        try:
            with (
                checkpoint_activations(self.base, self.activation_checkpointing),
                disable_input_dtype_casting(self.model),
            ):
                yield
        finally:
            config._attn_implementation = before

    def attend(self, batch: Batch) -> attention.Attend:
        """Return the attention backend of a batch. Raise UserError for a trajectory beyond the model's limit."""
        longest = max(batch.segments.key_lengths)
        if self.limit and longest > self.limit.tokens:
            what = f"a trajectory has {longest} tokens, the model {self.limit.what}"
            raise UserError(f"{what}; set sampler.max_context to {self.limit.tokens} or less")
        return attention.BACKENDS[self.attention](batch.segments, self.base.dtype)

    def logprobs(self, batch: Batch, attend: attention.Attend) -> Tensor:
        """Return the log-probs of the loss tokens [L], float32, scaled by the temperature, with the active adapter."""
        return self.target_logprobs(self.hidden(batch, attend)[batch.source_L], batch.target_L)

    def target_logprobs(self, hidden_LD: Tensor, target_L: Tensor) -> Tensor:
        """Return the log-probs of the targets given the hidden states that predict them."""
        head = self.base.get_output_embeddings()
        logp_L = linear_logprob(
            hidden_LD, head.weight, target_L, bias=getattr(head, "bias", None), temperature=self.temperature,
            softcap=self.softcap,
        )  # fmt: skip
        assert isinstance(logp_L, Tensor)  # no entropies were requested
        return logp_L

    def base_logprobs(self, batch: Batch, attend: attention.Attend) -> Tensor:
        """Return the same log-probs with the base alone, without a gradient."""
        with torch.no_grad(), self.model.disable_adapter():
            return self.logprobs(batch, attend)

    def hidden(self, batch: Batch, attend: attention.Attend) -> Tensor:
        """Return the last hidden states [T, D].

        A base in half precision computes in it, adapters included; their weights and gradients stay float32. Without
        autocast PEFT would widen, and keep for the backward, the input of every adapted layer.
        """
        device, dtype = batch.input_T.device.type, self.base.dtype
        with torch.autocast(device, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            out = self.base.get_decoder()(
                input_ids=batch.input_T[None], position_ids=batch.position_T[None], use_cache=False, attend=attend
            )
        return out.last_hidden_state[0]
