"""Rows of the benchmark for the advantage and the policy losses, in Triton and in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aslfast_kernels import group_advantage, policy_loss
from bench.kernels.timing import Row, Timer, launches


def loss_rows(timer: Timer, tokens: int, sequences: int, seed: int) -> list[Row]:
    """Return group advantages of groups of 8, brought to tokens, and two losses with their gradient."""
    g = torch.Generator(timer.device).manual_seed(seed)
    draw = {"generator": g, "device": timer.device}
    rewards, group_ids = torch.rand(sequences, **draw), torch.arange(sequences, device=timer.device) // 8
    ids = torch.arange(tokens, device=timer.device) // (tokens // sequences)
    logp, old, advantage = (torch.randn(tokens, **draw) for _ in range(3))

    def advantages(impl: str) -> Tensor:
        return group_advantage(rewards, group_ids, sequence_ids_T=ids, impl=impl)

    def loss(impl: str, **options: Any) -> Any:
        leaf = logp.detach().requires_grad_()
        return torch.autograd.grad(policy_loss(leaf, old, advantage, sequence_ids_T=ids, impl=impl, **options)[0], leaf)

    cases: dict[str, Callable] = {
        "group_advantage to tokens": advantages,
        "policy_loss ppo": loss,
        "policy_loss gspo": lambda impl: loss(impl, ratio_level="sequence", aggregate="sequence_mean"),
    }
    ours = "triton" if timer.device == "cuda" else "torch"
    rows = []
    for name, run in cases.items():
        runs = {"aslfast": lambda run=run: run(ours), "torch eager": lambda run=run: run("torch")}
        for side, row in timer.compare(runs).items():
            row |= {"side": side, "pass": name, "shape": (tokens, sequences)}
            if timer.device == "cuda":
                row["launches"] = len(launches(runs[side]))
            rows.append(row)
    return rows
