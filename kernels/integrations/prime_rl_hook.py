"""For prime-rl's configuration: importing this module, as it does to find its loss, patches its head.

    [trainer.loss]
    type = "custom"
    import_path = "aslfast_kernels.integrations.prime_rl_hook.default_loss"

A custom loss is the only place where prime-rl's trainer takes code of others, and it is imported before the first
forward. `default_loss` leaves the loss as prime-rl has it, `policy_loss` is ours too. `patch.undo()` takes it back.
"""

from __future__ import annotations

import importlib
from typing import Any

from .prime_rl import LOSS, patch_prime_rl, policy_loss

__all__ = ["default_loss", "patch", "policy_loss"]

patch = patch_prime_rl()


def default_loss(inputs: Any, **options: Any) -> Any:
    """Return prime-rl's own default loss; options: those of its DefaultLossConfig."""
    theirs = importlib.import_module(LOSS)
    return theirs.default_loss_fn(inputs, theirs.DefaultLossConfig(**options))
