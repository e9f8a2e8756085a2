"""The parts of a learner's step, and the methods that are timed for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aslfast.learner.learner import Learner

LOSS_PART = "packing and loss"  # everything in a step but the others
STEP_PARTS = ("forward", "head", "backward", "optimizer", LOSS_PART)


def timed_methods(learner: Learner) -> Iterator[tuple[object, str, str]]:
    """Yield (owner, method, part) for all parts but LOSS_PART."""
    yield learner.packed_model, "hidden", "forward"
    yield learner.packed_model, "logprobs", "head"
    yield torch.Tensor, "backward", "backward"
    yield learner, "_update", "optimizer"
