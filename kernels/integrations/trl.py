"""`patch_trl`: TRL's GRPO and RLOO trainers compute their log-probs and entropies with `linear_logprob`.

TRL 1.16 resolves the fused head of GRPO, RLOO, DPO, KTO and SFT through one name of `trl.trainer.utils`, an autograd
function whose `apply` gets hidden states of loss tokens, the head, its bias, targets, temperature, softcap and logit
scale. Refused elsewhere already: an adapter on the head (TRL), a sharded head under FSDP2 (gathered by TRL).
"""

from __future__ import annotations

import importlib

from torch import Tensor

from ..logprobs.logprob import linear_logprob
from .patch import Patch, check_parameters

NAME = "_ChunkedLogProbFunction"
PARAMETERS = (
    "ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
    "logit_scale", "outputs",
)  # fmt: skip
OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # TRL's, besides log_probs, in its order


def patch_trl(*, impl: str | None = None) -> Patch:
    """Make TRL's GRPO and RLOO trainers use `linear_logprob`, and return the handle whose `undo` takes it back.

    It takes logit softcap, logit scale, bias, tied and LoRA models, gradient checkpointing and autocast as TRL does.
    A frozen head takes two matrix products for forward and backward, the entropy included.
    impl: as in `linear_logprob`.
    Raises ImportError without TRL; RuntimeError for a TRL whose fused head is not the one we know (1.16), or that is
        patched already. A training step raises NotImplementedError for DeepSpeed ZeRO-3 and for a trainer that asks
        for what we do not compute (`is_top1`, `mean_logits`, `log_sum_sq_probs`: SFT, DPO and KTO do).
    """
    names = vars(importlib.import_module("trl.trainer.utils"))
    if isinstance(names.get(NAME), FusedHead):
        raise RuntimeError("patch_trl: TRL is patched already; undo() that patch first")
    if NAME not in names:
        raise RuntimeError(f"patch_trl: trl.trainer.utils has no {NAME}; it needs TRL 1.16 or newer")
    check_parameters(f"patch_trl: trl.trainer.utils.{NAME}", names[NAME].forward, PARAMETERS)
    patch = Patch()
    patch.replace(names, NAME, FusedHead(impl))
    return patch


class FusedHead:
    """What stands in the place of TRL's autograd function."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    # More than 6 parameters: TRL's, by position.
    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = OUTPUTS,
    ) -> tuple[Tensor | None, ...]:
        """Return (log_probs, entropy, None, None, None), [N] each; entropy None unless it is among `outputs`.

        hidden [N, D], weight [V, D], bias [V], targets [N]. `chunk_size` sizes TRL's own tiles and is not used.
        """
        _refuse(weight, outputs)
        frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
        result = linear_logprob(
            hidden,
            weight,
            targets,
            bias=bias,
            temperature=temperature,
            softcap=final_logit_softcapping,
            logit_scale=logit_scale,
            return_entropy="entropy" in outputs,
            residual="save" if frozen else "auto",  # TRL asks for the entropy at every step, mostly to log it
            impl=self.impl,
        )
        logp, entropy = result if isinstance(result, tuple) else (result, None)
        return logp, entropy, None, None, None


def _refuse(weight: Tensor, outputs: tuple[str, ...]) -> None:
    """Raise NotImplementedError for what `linear_logprob` does not compute as TRL does."""
    missing = [name for name in outputs if name not in ("log_probs", "entropy")]
    if missing:
        raise NotImplementedError(f"patch_trl: this trainer asks for {', '.join(missing)}; undo() the patch for it")
    if hasattr(weight, "ds_id"):
        raise NotImplementedError("patch_trl: DeepSpeed ZeRO-3 takes the head away before the backward; undo() it")
