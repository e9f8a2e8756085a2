"""`patch_slime`: slime's log-probs and entropies of logits, split over Megatron's ranks or whole, by `logprob`.

slime makes both in one function of `slime.utils.ppo_utils`, which its Megatron backend imports by name. It calls a
function of others in every training process before the model is built: `--custom-megatron-init-path`, for which `init`
is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..logprobs.logprob import logprob
from .patch import Patch, check_parameters, modules_with

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MODULE = "slime.utils.ppo_utils"
NAME = "calculate_log_probs_and_entropy"
PARAMETERS = (
    "logits", "tokens", "tp_group", "with_entropy", "chunk_size", "log_prob_keep_mask", "with_entropy_grad",
)  # fmt: skip


def patch_slime(*, impl: str | None = None) -> Patch:
    """Make slime use `logprob`, and return the handle whose `undo` takes it back.

    It takes the vocabulary split over tensor-parallel ranks, an entropy with and without a gradient, and the replay of
    top-p. Between forward and backward it keeps the logits, which the model has anyway, where slime keeps a softmax of
    their size in float32. slime's losses are sums of per-token terms by functions of its own and stay.
    impl: as in `logprob`.
    Raises ImportError without slime; RuntimeError for a slime whose function is not the one we know (August 2026), or
        that is patched already.
    """
    names = vars(importlib.import_module(MODULE))
    if isinstance(names.get(NAME), LogProbs):
        raise RuntimeError("patch_slime: slime is patched already; undo() that patch first")
    if NAME not in names:
        raise RuntimeError(f"patch_slime: {MODULE} has no {NAME}; it needs a slime of July 2026 or newer")
    check_parameters(f"patch_slime: {MODULE}.{NAME}", names[NAME], PARAMETERS)
    patch, theirs, ours = Patch(), names[NAME], LogProbs(impl)
    for found in modules_with("slime", NAME, theirs):
        patch.replace(found, NAME, ours)
    return patch


def init(args: Any) -> None:
    """Patch slime in this process: `--custom-megatron-init-path aslfast_kernels.integrations.slime.init`."""
    patch_slime()


class LogProbs:
    """What stands in the place of slime's `calculate_log_probs_and_entropy`."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    # More than 6 parameters: slime's.
    def __call__(
        self,
        logits: Tensor,
        tokens: Tensor,
        tp_group: ProcessGroup | None,
        with_entropy: bool = False,
        chunk_size: int = -1,
        log_prob_keep_mask: Tensor | None = None,
        with_entropy_grad: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (log-probs [T, 1], entropy [T] or None) of this rank's logits [T, V]; [0] each without a token.

        The keep mask [T, V] is slime's replay of top-p: the log-prob is over the kept tokens and the target, the
        entropy over all. `chunk_size` sizes slime's own pieces and is not used.
        """
        if not len(logits):
            return logits.new_zeros(0), logits.new_zeros(0) if with_entropy else None
        group = group_of(tp_group)
        if log_prob_keep_mask is None:
            logp, entropy = self._values(logits, tokens, group, with_entropy)
        else:
            logp, _ = self._values(_kept(logits, tokens, log_prob_keep_mask, group), tokens, group, False)
            entropy = self._values(logits, tokens, group, True)[1] if with_entropy else None
        if entropy is not None and not with_entropy_grad:
            entropy = entropy.detach()
        return logp.unsqueeze(1), entropy

    def _values(
        self, logits: Tensor, tokens: Tensor, group: ProcessGroup | None, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        results = logprob(logits, tokens, return_entropy=entropy, tp_group=group, impl=self.impl)
        return results if isinstance(results, tuple) else (results, None)


def group_of(tp_group: ProcessGroup | None) -> ProcessGroup | None:
    """Return the group that slime sums over (None: all ranks), None where that is one rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if tp_group is None else tp_group
    return group if dist.get_world_size(group) > 1 else None


def _kept(logits: Tensor, tokens: Tensor, keep: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the logits with -inf where neither the mask nor the target keeps them; slime's slices are of one size."""
    vocabulary = logits.shape[1]
    local = tokens - (0 if group is None else dist.get_rank(group) * vocabulary)
    rows = ((local >= 0) & (local < vocabulary)).nonzero().squeeze(1)
    keep = keep.index_put((rows, local[rows]), torch.ones((), dtype=torch.bool, device=keep.device))
    return logits.masked_fill(~keep, -torch.inf)
