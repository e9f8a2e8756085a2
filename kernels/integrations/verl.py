"""`patch_verl`: verl's fused log-probs by `linear_logprob`, and its `vanilla` policy loss by `policy_loss`.

verl imports `verl.utils.kernel.linear_cross_entropy.linear_cross_entropy` when a model's forward runs (FSDP, with
`use_fused_kernels=True` and `fused_kernel_options.impl_backend=triton`) or at the head of a module (Megatron), and
finds a policy loss by its name in a registry. It hands over the head's weight alone: what else a model does to its
logits is looked for in the model, before its forward.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..logprobs.logprob import linear_logprob
from .patch import Patch, check_parameters, modules_with
from .verl_loss import LOSS_PARAMETERS, VanillaLoss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

KERNEL = "verl.utils.kernel.linear_cross_entropy"
NAME = "linear_cross_entropy"
PARAMETERS = ("ctx", "hidden", "weight", "labels", "temperature", "reduction", "dist_process_group")
LOSSES = "verl.trainer.ppo.core_algos"
MODELS = tuple(
    f"verl.models.transformers.{name}" for name in ("dense_common", "qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v")
)
FORWARD = "forward_with_triton_backend"
SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def patch_verl(*, impl: str | None = None) -> Patch:
    """Make verl use `linear_logprob` and `policy_loss`, and return the handle whose `undo` takes it back.

    Call it in the actor's process before its model is built. A frozen head (LoRA) takes two matrix products for
    forward and backward; verl's own function always makes the head's gradient too.
    impl: as in `linear_logprob`.
    Raises ImportError without verl; RuntimeError for a verl whose functions are not those we know (0.9), or that is
        patched already. A training step raises NotImplementedError for a head with an adapter or a bias, a logit
        softcap or scale (verl's own function leaves them out), a reduction, and a vocabulary split over ranks.
    """
    kernel, losses = vars(importlib.import_module(KERNEL)), vars(importlib.import_module(LOSSES))
    registry = losses["POLICY_LOSS_REGISTRY"]
    if isinstance(kernel[NAME], FusedHead):
        raise RuntimeError("patch_verl: verl is patched already; undo() that patch first")
    check_parameters(f"patch_verl: {KERNEL}", kernel["LinearCrossEntropy"].forward, PARAMETERS)
    check_parameters(f'patch_verl: policy loss "vanilla" of {LOSSES}', registry["vanilla"], LOSS_PARAMETERS)
    patch, theirs, ours = Patch(), kernel[NAME], FusedHead(impl)
    for names in modules_with("verl", NAME, theirs):
        patch.replace(names, NAME, ours)
    for names in _importable(MODELS):
        patch.replace(names, FORWARD, _checked(names[FORWARD]))
    patch.replace(registry, "vanilla", VanillaLoss(impl))
    return patch


class FusedHead:
    """What stands in the place of verl's `linear_cross_entropy`."""

    def __init__(self, impl: str | None) -> None:
        self.impl = impl

    # More than 6 parameters: verl's, by position.
    def __call__(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        temperature: float = 1.0,
        reduction: str = "none",
        dist_process_group: ProcessGroup | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (log-probs, entropy), each [tokens], of hidden [..., D] and labels [...]."""
        _refuse(temperature, reduction, dist_process_group)
        logp, entropy = linear_logprob(
            hidden.flatten(0, -2),
            weight,
            labels.flatten(),
            temperature=temperature,
            return_entropy=True,
            residual="auto" if weight.requires_grad else "save",  # verl asks for the entropy at every step
            impl=self.impl,
        )
        return logp, entropy


def _refuse(temperature: float, reduction: str, group: ProcessGroup | None) -> None:
    """Raise for what verl's function means and ours does not."""
    if not isinstance(temperature, (float, int)):
        raise TypeError(f"temperature: got {type(temperature).__name__}, expected a number")
    if reduction.lower() != "none":
        raise NotImplementedError(f'patch_verl: reduction {reduction!r}; verl itself asks for "none"')
    if group is not None and torch.distributed.get_world_size(group) > 1:
        # verl leaves each rank its own part of hidden's gradient, which Megatron then sums; ours is the sum.
        raise NotImplementedError("patch_verl: a vocabulary split over ranks; undo() it, or use 1 rank")


def _importable(modules: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the namespaces of those that can be imported here: a model whose module cannot be is not run either."""
    found = []
    for module in modules:
        try:
            found.append(vars(importlib.import_module(module)))
        except ImportError:
            continue
    return found


def _checked(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` (a method of a model), preceded by the check of the model's head."""

    @functools.wraps(forward)
    def checked(model: Any, *args: Any, **kwargs: Any) -> Any:
        check_plain_head(model)
        return forward(model, *args, **kwargs)

    return checked


def check_plain_head(model: Any) -> None:
    """Raise NotImplementedError unless the model's logits are hidden @ weight^T."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    found = [name for name in SCALES if getattr(config, name, None) not in (None, 1.0)]
    if getattr(config, "final_logit_softcapping", None) is not None:
        found.append("final_logit_softcapping")
    if getattr(head, "bias", None) is not None:
        found.append("a bias of the head")
    if hasattr(head, "base_layer"):
        found.append("an adapter on the head")
    if found:
        name = type(model).__name__
        raise NotImplementedError(f"patch_verl: {name} has {', '.join(found)}, which verl's fused head leaves out")
