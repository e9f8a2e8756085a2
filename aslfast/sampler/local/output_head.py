"""The output head of a large vocabulary on a CPU: some rows of its weight at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

PART = 1024  # rows of the weight that stay in the processor's cache between packing and product
MIN_VOCAB = 8 * PART


@contextmanager
def by_parts(head: Any) -> Iterator[None]:
    """Compute the head's product part by part inside, where that is faster.

    MKL packs the whole weight before it multiplies; a [49152, 576] float32 one then goes through memory three times,
    and 32 rows take twice as long. Each logit is the same sum, in MKL's order for the smaller shape.
    """
    plain = type(head) is nn.Linear and head.bias is None and head.weight.device.type == "cpu"
    if not plain or head.weight.shape[0] < MIN_VOCAB:
        yield
        return

    def forward(hidden_BTD: torch.Tensor) -> torch.Tensor:
        return torch.cat([linear(hidden_BTD, part_PD) for part_PD in head.weight.split(PART)], -1)

    head.__dict__["forward"] = forward  # shadows the class's method
    try:
        yield
    finally:
        head.__dict__.pop("forward", None)
