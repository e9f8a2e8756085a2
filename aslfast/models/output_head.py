"""What a causal LM does to its logits after the output head: measured on the model, not read from its settings."""

from __future__ import annotations

import math
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

    def head_arguments(self, temperature: float) -> dict[str, float | None]:
        """Return the temperature and softcap under which bare logits have the same log-probs.

        c tanh(s x / c) / t = c' tanh(x / c') / t' with c' = c / s and t' = t / s.
        """
        softcap = self.softcap / self.scale if self.softcap else None
        return {"temperature": temperature / self.scale, "softcap": softcap}


def measure_transform(model: Any) -> LogitTransform:
    """Return the model's transform: one pass of one token in which known numbers replace the head's output.

    float64, so that a scale comes out to the last bit in any dtype. Raise UserError where there is no such transform.
    """
    place, head = model.config.model_type, model.get_output_embeddings()
    if not isinstance(head, nn.Module) or getattr(head, "weight", None) is None:
        raise UserError(f"{place}: no output head that maps hidden states to logits; use a causal language model")
    probe_V = torch.tensor(PROBES, dtype=torch.float64).repeat(-(-head.weight.shape[0] // len(PROBES)))
    probe_V = probe_V[: head.weight.shape[0]].to(head.weight.device)
    with torch.no_grad(), _replaced(head, probe_V):
        found_V = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=probe_V.device), use_cache=False).logits
    made = _fit([float(x) for x in found_V.flatten()[: len(PROBES)]])
    expected_V = torch.tensor([made(x) for x in PROBES], dtype=torch.float64, device=probe_V.device)
    expected_V = expected_V.repeat(-(-len(probe_V) // len(PROBES)))[: len(probe_V)]
    off_V = (found_V.flatten().double() - expected_V).abs()
    if found_V.numel() != len(probe_V) or not bool((off_V <= 16 * ROUNDING * expected_V.abs()).all()):
        what = "what the model does to its logits after the output head is neither a scale nor a cap"
        raise UserError(f"{place}: {what}; use another base")
    return made


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
