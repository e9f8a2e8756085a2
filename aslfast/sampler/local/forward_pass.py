"""Forward passes of the trainer's model for the local sampler: slots of the cache in, logits of the next tokens out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from aslfast.models.context_limit import context_limit
from aslfast.sampler.local.kv_cache import ATTENTION, KVCache, causal_mask
from aslfast.sampler.local.multi_lora import MultiLora
from aslfast.sampler.local.output_head import by_parts
from aslfast.sampler.local.running_request import Row
from aslfast.sampler.local.shared_reads import MIN_QUERY_WIDTH, SharedReads, groups_of, reading, saves_enough

PREFILL_TOKENS = 8192  # most tokens of one prefill pass, padding included
PREFILL_SLACK = 16  # sequences that differ by at most this many tokens, or a quarter, are padded to one length


class ForwardPass:
    """A causal LM, bare or wrapped by PEFT, that runs sequences of different adapters in one batch."""

    def __init__(self, model: Any, max_context: int, share: bool = True) -> None:
        """Lower max_context to the model's limit. Raise UserError for a model that is not served.

        share: read what several sequences begin with once, where that is worth it: on a CPU.
        merges: whether samples with equal tokens so far may be one row.
        """
        self.lora = MultiLora(model)
        # PEFT replaces layers in place: underneath is the same model without the wrapper's overhead.
        self.model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._modules = list(self.model.modules())
        self._config = self.model.get_decoder().config
        n_heads, n_kv_heads, head_dim = head_shape(self._config)
        self._n_groups = n_heads // n_kv_heads
        weight = self.model.get_input_embeddings().weight
        self.n_vocab, self._device = weight.shape[0], weight.device
        self._share = share and self._device.type == "cpu" and n_heads * head_dim >= MIN_QUERY_WIDTH
        self.merges = share
        limit = context_limit(self._config)
        self.max_context = min(max_context, limit.tokens if limit else max_context)
        kv_dtype = attention_dtype(weight.dtype, self._device)
        like = torch.empty(0, dtype=kv_dtype, device=self._device)
        self.cache = KVCache(self._config.num_hidden_layers, n_kv_heads, head_dim, like)

    def refresh(self) -> None:
        """Read the adapters again."""
        self.lora.refresh()
        self._modules = list(self.model.modules())

    def logits(self, first_slot: int, requests: Sequence[Row]) -> torch.Tensor:
        """Run the tokens that are not in the cache yet; return the logits [B, V] after the last token of each request.

        requests[i] is in slot first_slot + i. Padding is on the left, so that the last token comes last.
        """
        n_tokens = max(len(run.ids) - run.n_kv for run in requests)
        n_positions = max(len(run.ids) for run in requests)
        self.cache.reserve(0, n_positions, 0, self.max_context)
        tokens = [[0] * (n_tokens - len(run.ids) + run.n_kv) + run.ids[run.n_kv :] for run in requests]
        n_total_B1 = torch.tensor([[len(run.ids)] for run in requests], device=self._device)
        position_BT = n_total_B1 - n_tokens + torch.arange(n_tokens, device=self._device)
        padded_BT = None
        if n_tokens > 1:
            padded_BT = position_BT < torch.tensor([[run.n_kv] for run in requests], device=self._device)
            position_BT = position_BT.clamp_(min=0)  # padding must see something: a row of -inf alone gives NaN
        self.cache.set_write_positions(first_slot, position_BT, n_positions, padded_BT)
        input_BT = torch.tensor(tokens, device=self._device)
        with self.lora.serving([run.adapter for run in requests]):
            if reads := self._shared_reads(requests) if n_tokens == 1 and first_slot == 0 else None:
                with reading(reads):
                    return self._last_logits(input_BT, position_BT, reads.prepare(self.cache.kv_L2RHSD))
            mask = causal_mask(position_BT, n_positions, self._n_groups, self.cache.kv_L2RHSD.dtype)
            return self._last_logits(input_BT, position_BT, mask)

    def _last_logits(self, input_BT: torch.Tensor, position_BT: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Run the model; return the logits [B, V] after the last token of each row."""
        with by_parts(self.model.get_output_embeddings()):
            return self.model(
                input_ids=input_BT,
                position_ids=position_BT,
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]

    def _shared_reads(self, requests: Sequence[Row]) -> SharedReads | None:
        """Return how the running requests read their contexts in this step; None: each its own."""
        known = self.cache.shared
        if known is None or not known.keep(requests):
            groups = groups_of(requests) if self._share else []
            worth = groups and saves_enough(groups, requests)
            known = SharedReads(self.cache.kv_L2RHSD, requests, groups) if worth else None
        self.cache.shared = known
        return known

    @contextmanager
    def sampling_mode(self) -> Iterator[None]:
        """Set evaluation mode, our attention and no gradients; restore all, since the learner trains these modules."""
        training = [module for module in self._modules if module.training]
        attention = self._config._attn_implementation
        self._config._attn_implementation = ATTENTION
        _set_training(training, False)
        try:
            with torch.inference_mode():
                yield
        finally:
            self._config._attn_implementation = attention
            _set_training(training, True)


def _set_training(modules: Sequence[nn.Module], value: bool) -> None:
    """Set the flag past nn.Module.__setattr__, which on every module would take a tenth of a small step."""
    for module in modules:
        vars(module)["training"] = value


def buckets(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut ascending lengths into ranges [low, high) that waste little on padding and stay under PREFILL_TOKENS."""
    cuts = [0]
    for i, n in enumerate(lengths):
        close = n <= max(lengths[cuts[-1]] + PREFILL_SLACK, lengths[cuts[-1]] * 5 // 4)
        if i > cuts[-1] and (not close or (i + 1 - cuts[-1]) * n > PREFILL_TOKENS):
            cuts.append(i)
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True)) if lengths else []


def attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of keys, values and attention: on a CPU float32 for 16-bit weights.

    torch's 16-bit attention of one token took 47% of a decode step of 24 sequences of 500 tokens (SmolLM2-135M).
    """
    narrow = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and device.type == "cpu" else dtype


def head_shape(config: Any) -> tuple[int, int, int]:
    """Return (query heads, kv heads, head dim)."""
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return n_heads, n_kv_heads, getattr(config, "head_dim", None) or config.hidden_size // n_heads


def eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end a turn: those of the generation config, and the tokenizer's."""
    found: set[int] = set()
    given: tuple[Any, ...] = (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id)
    for ids in given:
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)
