"""`patch_openrlhf`: OpenRLHF's log-probs and entropies by `logprob`, and its policy loss by `policy_loss`.

OpenRLHF has no place for code of others in its actors; it takes log-probs and entropies from two functions of
`openrlhf.models.utils`, and the loss from a class of `openrlhf.models.loss`, all imported by name. Patch in the process
of the actor, before it is made: in Ray by `worker_process_setup_hook`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ..logprobs.logprob import logprob
from .openrlhf_loss import LOSS_PARAMETERS, fused_policy_loss
from .patch import Patch, check_parameters, modules_with

FUNCTIONS, LOSSES = "openrlhf.models.utils", "openrlhf.models.loss"
PARAMETERS = {"log_probs_from_logits": ("logits", "labels", "temperature"), "compute_entropy": ("logits",)}


def patch_openrlhf(*, impl: str | None = None) -> Patch:
    """Make OpenRLHF use `logprob` and `policy_loss`, and return the handle whose `undo` takes it back.

    impl: as in `logprob`. The model's logits are left as they are, where OpenRLHF divides them by the temperature in
    place: who reads `output.logits` afterwards (none of OpenRLHF does) gets them undivided.
    Raises ImportError without OpenRLHF; RuntimeError for one whose functions are not those we know (August 2026), or
        that is patched already.
    """
    functions, losses = (vars(importlib.import_module(module)) for module in (FUNCTIONS, LOSSES))
    if isinstance(functions["log_probs_from_logits"], LogProbs):
        raise RuntimeError("patch_openrlhf: OpenRLHF is patched already; undo() that patch first")
    for name, known in PARAMETERS.items():
        check_parameters(f"patch_openrlhf: {FUNCTIONS}.{name}", functions[name], known)
    check_parameters(f"patch_openrlhf: {LOSSES}.PolicyLoss", losses["PolicyLoss"].forward, LOSS_PARAMETERS)
    ours: dict[str, Any] = {
        "log_probs_from_logits": LogProbs(impl), "compute_entropy": Entropies(impl),
        "PolicyLoss": fused_policy_loss(losses["PolicyLoss"], impl),
    }  # fmt: skip
    patch = Patch()
    for name, value in ours.items():
        for found in modules_with("openrlhf", name, (functions | losses)[name]):
            patch.replace(found, name, value)
    return patch


class LogProbs:
    """What stands in the place of OpenRLHF's `log_probs_from_logits`."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    def __call__(self, logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log-probs [...] of logits [..., V] and labels [...]."""
        logp = logprob(logits.flatten(0, -2), labels.flatten(), temperature=temperature, impl=self.impl)
        assert isinstance(logp, Tensor)
        return logp.view(labels.shape)


class Entropies:
    """What stands in the place of OpenRLHF's `compute_entropy`."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    def __call__(self, logits: Tensor) -> Tensor:
        """Return entropies [...] of logits [..., V]; with their gradient."""
        flat = logits.flatten(0, -2)
        anything = torch.zeros(len(flat), dtype=torch.long, device=logits.device)
        _, entropy = logprob(flat, anything, return_entropy=True, impl=self.impl)
        return entropy.view(logits.shape[:-1])
