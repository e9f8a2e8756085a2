"""Sequences of different LoRA adapters in one forward pass.

All adapters of a layer are concatenated: A_RI [sum of ranks, in] and B_RO [sum of ranks, out]. A mask keeps, for each
sequence of the batch, the ranks of its own adapter and holds that adapter's scaling:

    out_BTO = base(x_BTI) + ((x_BTI A_RI^T) * mask_B1R) B_RO

which is LoRA (arXiv 2106.09685, section 4.1) for each sequence, and the base alone where the mask is 0. A few more
ranks cost less than one forward pass per adapter; ranks outside those of the batch's adapters are left out. Adapters
are read from PEFT's layers; PEFT's state is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from aslfast.errors import UserError

Key = tuple[tuple[str, int, float], ...]  # (adapter, rank, scaling) of a layer; most models have one key for all layers


class MultiLora:
    """The adapters of a model, ready to be applied sequence by sequence. `refresh` after weights change."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.refresh()

    def refresh(self) -> None:
        """Copy the adapters' weights again (a few MB). Raise UserError for what is not plain LoRA."""
        modules: list[tuple[str, Any]] = list(self._model.named_modules())
        self._layers = [(name, m) for name, m in modules if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
        for name, module in modules:  # PEFT's wrapper of a module trained as a whole
            if len(getattr(module, "modules_to_save", None) or ()):
                raise UserError(f"{name}: the local sampler serves LoRA alone; train without modules_to_save")
        self.names = tuple(dict.fromkeys(name for _, layer in self._layers for name in layer.lora_A))
        self._batch: dict[Key, tuple[torch.Tensor, int, int]] = {}
        self._tables: dict[Key, torch.Tensor] = {}
        self._forwards = [(layer, self._forward_of(name, layer)) for name, layer in self._layers]
        self._parameters = [
            weight for _, layer in self._layers for side in (layer.lora_A, layer.lora_B) for weight in side.parameters()
        ]
        self._seen = self._fingerprint()

    def _fingerprint(self) -> tuple[int, int]:
        n_adapters = sum(len(layer.lora_A) for _, layer in self._layers)
        return n_adapters, sum(weight._version for weight in self._parameters)

    def changed(self) -> bool:
        """Return whether an adapter was added, removed or written in place since `refresh`."""
        return self._fingerprint() != self._seen

    def _forward_of(self, name: str, layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the layer's forward for a batch of several adapters."""
        check_plain(name, layer)
        key: Key = tuple((a, m.weight.shape[0], float(layer.scaling[a])) for a, m in layer.lora_A.items())
        with torch.no_grad():
            a_RI = torch.cat([module.weight for module in layer.lora_A.values()])
            b_RO = torch.cat([layer.lora_B[adapter].weight.T for adapter in layer.lora_A])
            self._tables.setdefault(key, self._table(key, a_RI))
        base, batch = layer.base_layer, self._batch

        def forward(x: torch.Tensor) -> torch.Tensor:
            out, (mask_B1R, low, high) = base(x), batch[key]
            if low == high:
                return out
            if x.dim() != 3 or x.shape[0] != mask_B1R.shape[0]:
                raise UserError(
                    f"{name}: sequences are merged in shape {tuple(x.shape)}; the local sampler needs [B, T, I]"
                )
            low_BTR = linear(x.to(a_RI.dtype), a_RI[low:high]) * mask_B1R
            if out.dtype != b_RO.dtype:
                return (out + low_BTR @ b_RO[low:high]).to(out.dtype)
            # In place: the copy would cost more than the product.
            out.flatten(0, 1).addmm_(low_BTR.flatten(0, 1), b_RO[low:high])
            return out

        return forward

    def _table(self, key: Key, like: torch.Tensor) -> torch.Tensor:
        """Return each adapter's mask [adapters + 1, 1, R]; the last, all 0, is the base's."""
        rows = [[s if a == name else 0.0 for a, rank, s in key for _ in range(rank)] for name in (*self.names, None)]
        return torch.tensor(rows, dtype=like.dtype, device=like.device)[:, None]

    @contextmanager
    def serving(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Serve adapters[i] in sequence i of the forward pass inside; then restore PEFT's own forward."""
        order = {name: i for i, name in enumerate(self.names)} | {None: len(self.names)}
        rows = [order[adapter] for adapter in adapters]
        for key, table in self._tables.items():
            low, high = span(key, set(adapters))
            self._batch[key] = (table[rows, :, low:high], low, high)
        for layer, forward in self._forwards:
            layer.__dict__["forward"] = forward  # shadows the class's method; nn.Module.__setattr__ would cost more
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                layer.__dict__.pop("forward", None)


def span(key: Key, adapters: set[str | None]) -> tuple[int, int]:
    """Return the range [low, high) of a layer's ranks that holds these adapters; (0, 0) if it has none of them."""
    ends = [0, *accumulate(rank for _, rank, _ in key)]
    held = [i for i, (adapter, _, _) in enumerate(key) if adapter in adapters]
    return (ends[held[0]], ends[held[-1] + 1]) if held else (0, 0)


def check_plain(name: str, layer: Any) -> None:
    """Raise UserError unless the layer is a plain LoRA on a linear layer, unmerged."""
    if getattr(layer, "merged", False):
        raise UserError(f"{name}: an adapter is merged into the base; call unmerge_adapter() first")
    for adapter, module in layer.lora_A.items():
        variant = adapter in getattr(layer, "lora_variant", {}) or getattr(layer, "lora_bias", {}).get(adapter, False)
        if variant or not isinstance(module, nn.Linear):
            what = "no plain linear LoRA (DoRA, bias or convolution)"
            raise UserError(f"{name}: adapter {adapter!r} is {what}; use plain LoRA")
    if len(getattr(layer, "lora_embedding_A", ())):
        raise UserError(f"{name}: LoRA on an embedding is not served; leave it out of target_modules")
