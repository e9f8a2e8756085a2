"""Rows of the benchmark for log-probs, from hidden states and from logits, with torch's and the peers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aslfast_kernels import linear_logprob, logprob
from bench.kernels.peers import peers, torch_eager
from bench.kernels.timing import Row, Run, Timer

PASSES = {"forward": 1, "frozen head": 2, "trainable head": 3}  # and the products that each cannot do without


def head_rows(
    timer: Timer, shape: tuple[int, int, int], kept_fraction: float, seed: int, peak_tflops: float | None
) -> list[Row]:
    """Return every side and pass at one shape (tokens, width, vocabulary)."""
    tokens, width, vocabulary = shape
    g = torch.Generator(timer.device).manual_seed(seed)
    normal = {"generator": g, "device": timer.device, "dtype": torch.bfloat16}
    hidden = torch.randn(tokens, width, **normal)
    weight = torch.randn(vocabulary, width, **normal) * (2 * width**-0.5)
    target = torch.randint(vocabulary, (tokens,), generator=g, device=timer.device)
    mask = torch.rand(tokens, generator=g, device=timer.device) < kept_fraction
    loss_tokens = int(mask.sum())
    upstream = torch.randn(tokens, generator=g, device=timer.device)
    functions = {"aslfast": lambda h, w: linear_logprob(h, w, target, mask=None if kept_fraction == 1.0 else mask)}
    for name, function in peers()[0].items():
        functions[name] = lambda h, w, f=function: f(h[mask], w, target[mask])
    rows = []
    errors = {name: _error_of(f, hidden, weight, target, mask) for name, f in functions.items()}
    for name, products in PASSES.items():
        runs = {}
        for side, function in functions.items():
            up = upstream if side == "aslfast" else upstream[mask]
            runs[side] = _step_of(function, hidden, weight, up, name)
        for side, row in timer.compare(runs).items():
            row |= {"side": side, "pass": name, "shape": shape, "loss_tokens": loss_tokens, "error": errors[side]}
            if "ms" in row and peak_tflops is not None:
                row["tflops"] = round(products * 2 * loss_tokens * width * vocabulary / row["ms"] / 1e9, 1)
                row["fraction_of_peak"] = round(row["tflops"] / peak_tflops, 3)
            rows.append(row)
    return rows


def _step_of(function: Callable, hidden: Tensor, weight: Tensor, upstream: Tensor, name: str) -> Run:
    def forward() -> Any:
        with torch.no_grad():
            return function(hidden, weight)

    def both() -> Any:
        leaf_hidden = hidden.detach().requires_grad_()
        leaf_weight = weight.detach().requires_grad_(name == "trainable head")
        leaves = [leaf for leaf in (leaf_hidden, leaf_weight) if leaf.requires_grad]
        return torch.autograd.grad(function(leaf_hidden, leaf_weight), leaves, upstream.to(torch.float32))

    return forward if name == "forward" else both


def _error_of(function: Callable, hidden: Tensor, weight: Tensor, target: Tensor, mask: Tensor) -> float | str:
    """Return the largest error of log-probs on 32 loss tokens, against float64."""
    rows = mask.nonzero().squeeze(1)[:32]
    try:
        with torch.no_grad():
            got = function(hidden, weight)
    except Exception as error:  # timed below, where it becomes a row
        return type(error).__name__
    got = got[rows] if len(got) == len(mask) else got[:32]
    exact = torch_eager(hidden[rows].double(), weight.double(), target[rows]) if weight.device.type == "cpu" else None
    if exact is None:
        logits = torch.cat([hidden[rows].double() @ part.double().T for part in weight.split(16384)], dim=1)
        exact = torch.log_softmax(logits, dim=-1).gather(1, target[rows, None]).squeeze(1)
    return float(f"{float((got.double() - exact).abs().max()):.3g}")


def logits_rows(timer: Timer, tokens: int, vocabulary: int, seed: int, copy_gbps: float | None) -> list[Row]:
    """Return ours, torch's and compiled torch's, forward and with the backward in place."""
    g = torch.Generator(timer.device).manual_seed(seed)
    logits = torch.randn(tokens, vocabulary, generator=g, device=timer.device, dtype=torch.bfloat16)
    target = torch.randint(vocabulary, (tokens,), generator=g, device=timer.device)

    def eager(x: Tensor) -> Tensor:
        return torch.log_softmax(x.float(), dim=-1).gather(1, target[:, None]).squeeze(1)

    compiled = torch.compile(eager)
    sides = {
        "aslfast": lambda x: logprob(x, target, inplace_backward=True),
        "torch eager": eager,
        "torch.compile": compiled,
    }
    rows = []
    for name, passes in {"forward": 1, "forward + backward": 3}.items():

        def step(function: Callable, name: str = name) -> Any:
            if name == "forward":
                with torch.no_grad():
                    return function(logits)
            return torch.autograd.grad(function(leaf := logits.detach().requires_grad_()).sum(), leaf)

        for side, row in timer.compare({s: lambda f=f: step(f) for s, f in sides.items()}).items():
            row |= {"side": side, "pass": f"from logits, {name}", "shape": (tokens, vocabulary)}
            if "ms" in row and copy_gbps is not None:
                row["gbps"] = round(passes * logits.numel() * logits.element_size() / row["ms"] / 1e6, 1)
                row["fraction_of_peak"] = round(row["gbps"] / copy_gbps, 3)
            rows.append(row)
    return rows
