"""A causal LM's logits: what it does to them after its head, measured on the model; the error where they are NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aslfast.errors import UserError

PROBES = (1.0, -1.0, 1e-4, 8.0, -60.0, 1e6)  # values put in place of the head's logits: small, usual and huge ones
ROUNDING = 1e-6  # relative: some models continue in float32


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """final(x) = scale x, or softcap tanh(scale x / softcap): Granite and Cohere scale, Gemma caps."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, x: float) -> float:
        return self.softcap * math.tanh(self.scale * x / self.softcap) if self.softcap else self.scale * x

    def of_bare_logits(self, temperature: float) -> tuple[float, float | None]:
        """Return the temperature and softcap under which the head's own logits have the same log-probs.

        c tanh(s x / c) / t = c' tanh(x / c') / t' with c' = c / s and t' = t / s.
        """
        return temperature / self.scale, self.softcap / self.scale if self.softcap else None


def measure_transform(model: Any) -> LogitTransform:
    """Return the model's transform: one pass of one token in which known numbers replace the head's output.

    float64, so that a scale comes out to the last bit in any dtype. Raise UserError where there is no such transform.
    """
    place, head = model.config.model_type, model.get_output_embeddings()
    if not isinstance(head, nn.Module) or getattr(head, "weight", None) is None:
        raise UserError(f"{place}: no output head that maps hidden states to logits; use a causal language model")
    weight_VD: Any = head.weight
    probe_V = _tiled(PROBES, len(weight_VD), weight_VD.device)
    with torch.no_grad(), _replaced(head, probe_V):
        found_V = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=probe_V.device), use_cache=False).logits
    made = _fit([float(x) for x in found_V.flatten()[: len(PROBES)]])
    expected_V = _tiled([made(x) for x in PROBES], len(probe_V), probe_V.device)
    off_V = (found_V.flatten().double() - expected_V).abs()
    if found_V.numel() != len(probe_V) or not bool((off_V <= 16 * ROUNDING * expected_V.abs()).all()):
        what = "what the model does to its logits after the output head is neither a scale nor a cap"
        raise UserError(f"{place}: {what}; use another base")
    return made


def _tiled(values: Sequence[float], n: int, device: torch.device) -> Tensor:
    """Return n numbers in float64: the values again and again."""
    repeats = -(-n // len(values))
    return torch.tensor(values, dtype=torch.float64, device=device).repeat(repeats)[:n]


def _fit(found: list[float]) -> LogitTransform:
    """Return the transform that the values at PROBES belong to, if any does."""
    slope, huge = found[PROBES.index(1e-4)] / 1e-4, found[PROBES.index(1e6)]
    if math.isclose(huge, slope * 1e6, rel_tol=ROUNDING):
        return LogitTransform(found[0])
    return LogitTransform(1.0 if math.isclose(slope, 1.0, rel_tol=ROUNDING) else slope, abs(huge))


class _replaced:
    """Replace a module's output [..., V] by the same V numbers at every position."""

    def __init__(self, module: nn.Module, output_V: Tensor) -> None:
        self._module, self._output_V = module, output_V

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._hook)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _hook(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._output_V.expand(*output.shape[:-1], -1)


def logits_not_finite(model: Any) -> UserError:
    """Return the error for NaN or infinite logits: the model, its dtype and the remedy."""
    dtype, name = model.dtype, getattr(model, "name_or_path", "") or model.config.model_type
    if dtype == torch.float16:
        remedy = "set model.dtype to bfloat16 or float32: float16 overflows at 65,504"
    else:
        remedy = "copy its weights again, one may be NaN" + ("" if dtype == torch.float32 else ", or set model.dtype")
        remedy += "" if dtype == torch.float32 else " to float32"
    return UserError(f"{name}: the model's logits are not finite in model.dtype {str(dtype)[6:]}; {remedy}")
