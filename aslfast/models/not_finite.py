"""The error for a model whose logits are NaN or infinite: nothing that follows from them means anything."""

from __future__ import annotations

from typing import Any

import torch

from aslfast.errors import UserError


def logits_not_finite(model: Any) -> UserError:
    """Return the error that names the model, its dtype and the remedy."""
    dtype, name = model.dtype, getattr(model, "name_or_path", "") or model.config.model_type
    if dtype == torch.float16:
        remedy = "set model.dtype to bfloat16 or float32: float16 overflows at 65,504"
    else:
        remedy = "copy its weights again, one may be NaN" + ("" if dtype == torch.float32 else ", or set model.dtype")
        remedy += "" if dtype == torch.float32 else " to float32"
    return UserError(f"{name}: the model's logits are not finite in model.dtype {str(dtype)[6:]}; {remedy}")
