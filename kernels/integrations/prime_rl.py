"""`patch_prime_rl`: prime-rl's fused head by `linear_logprob`; and `policy_loss` as its custom loss.

prime-rl resolves its fused head (`fused_lm_head_token_chunk_size`, on by default) through two names, an autograd
function for plain models and one for models with a softcap, each of one module. What it takes from others is a loss by
`import_path`, which it imports after the model is built and before its first forward: see `prime_rl_hook`.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from ..logprobs.logprob import linear_logprob
from ..losses import policy_loss as losses
from .patch import Patch, check_parameters

HEADS = {
    ("prime_rl.trainer.models.layers.lm_head", "_SequenceChunkedLogProbEntropyFn"): (),
    ("prime_rl.trainer.models.layers.lm_head_gemma", "_GemmaChunkedLogProbEntropyFn"): ("softcap",),
}
PARAMETERS = ("ctx", "hidden", "weight", "labels", "inv_temperature", "chunk_size")
LOSS = "prime_rl.trainer.rl.loss"


def patch_prime_rl(*, impl: str | None = None) -> Patch:
    """Make prime-rl use `linear_logprob`, and return the handle whose `undo` takes it back.

    It takes a temperature for each token (at most 64 different ones a call), softcaps and frozen heads; a frozen head
    takes two matrix products for forward and backward, the entropy included. The loss and all else stay.
    impl: as in `linear_logprob`.
    Raises ImportError without prime-rl; RuntimeError for one whose heads are not those we know (August 2026), or that
        is patched already. A training step raises ValueError for more than 64 temperatures.
    """
    modules = {module: vars(importlib.import_module(module)) for module, _ in HEADS}
    for (module, name), more in HEADS.items():
        if isinstance(modules[module].get(name), FusedHead):
            raise RuntimeError("patch_prime_rl: prime-rl is patched already; undo() that patch first")
        if name not in modules[module]:
            raise RuntimeError(f"patch_prime_rl: {module} has no {name}; it needs a prime-rl of 2026")
        check_parameters(f"patch_prime_rl: {module}.{name}", modules[module][name].forward, (*PARAMETERS, *more))
    patch, ours = Patch(), FusedHead(impl)
    for module, name in HEADS:
        patch.replace(modules[module], name, ours)
    return patch


class FusedHead:
    """What stands in the place of prime-rl's autograd functions."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    # More than 6 parameters: prime-rl's, by position.
    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        inv_temperature: Tensor,
        chunk_size: int,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (log-probs, entropy), [N] each. `chunk_size` sizes prime-rl's own pieces and is not used.

        prime-rl refuses a gradient through the entropy; here it has one.
        """
        logp, entropy = linear_logprob(
            hidden,
            weight,
            labels,
            temperature=1.0 / inv_temperature,
            softcap=softcap,
            return_entropy=True,
            residual="auto" if weight.requires_grad else "save",  # the entropy is asked for at every step, to log it
            impl=self.impl,
        )
        return logp, entropy


def policy_loss(inputs: Any, **options: Any) -> Any:
    """Return prime-rl's LossOutputs of one sample: the sum over its loss tokens, which prime-rl divides by its count.

    inputs: prime-rl's LossInputs; ratios are against the sampler's log-probs, as in prime-rl's own losses. options:
    those of `aslfast_kernels.policy_loss`, such as clip_high, dual_clip or kind; with kl_coef, prime-rl's reference.
    prime-rl's weights multiply all but that KL term.
    """
    loss, metrics = losses.policy_loss(
        inputs.trainer_logprobs,
        inputs.inference_logprobs,
        inputs.advantages,
        mask_T=inputs.loss_mask,
        weights_T=inputs.loss_weights,
        ref_logp_T=inputs.ref_logprobs if options.get("kl_coef") else None,
        advantage_level="token",
        aggregate="constant",
        normalizer=1.0,
        **options,
    )
    outputs = importlib.import_module(LOSS).LossOutputs
    return outputs(loss=loss, metrics={name: getattr(metrics, name) for name in ("clip_fraction", "approx_kl")})
