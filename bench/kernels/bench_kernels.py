"""aslfast_kernels on a GPU against torch, liger-kernel, cut-cross-entropy and TRL, all in one run.

    python -m bench.kernels.bench_kernels --out bench/results/kernels.json    # --test-first runs the kernels' tests before
    python -m bench.kernels.bench_kernels --small                             # a rehearsal on a CPU; its times mean nothing

Log-probs from hidden states: ms, TFLOP/s of the products that the pass cannot do without (1, 2 with a frozen head, 3
with a trainable one: 2 L D V each, L live tokens), their share of the rate of one bf16 product measured here, peak MiB
beyond the inputs, error against float64 on 32 rows. From logits: GB/s of the bytes that cannot be spared (forward: one
read; with backward in place: two reads and a write) against a copy's. Advantage and loss: kernels launched and us.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(8192, 3584, 152064), (8192, 2048, 151936), (32768, 2048, 151936)]
LIVE_SHARES = [1.0, 0.4]
PASSES = {"forward": 1, "frozen head": 2, "trainable head": 3}


def make_importable() -> None:
    """kernels/ under its installed name, so that a bare checkout will do; so that a GPU machine needs no installation."""
    link = ROOT / "build" / "typing" / "aslfast_kernels"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT / "kernels")
    sys.path.insert(0, str(link.parent))


make_importable()

from aslfast_kernels import group_advantage, linear_logprob, logprob, policy_loss  # noqa: E402
from bench.kernels.peers import peers, torch_eager  # noqa: E402
from bench.kernels.timing import Timer, launches  # noqa: E402


def head_rows(timer: Timer, shape: tuple[int, int, int], share: float, seed: int, tflops: float | None) -> list[dict]:
    """Every side and pass at one shape."""
    tokens, width, vocabulary = shape
    g = torch.Generator(timer.device).manual_seed(seed)
    normal = {"generator": g, "device": timer.device, "dtype": torch.bfloat16}
    hidden = torch.randn(tokens, width, **normal)
    weight = torch.randn(vocabulary, width, **normal) * (2 * width**-0.5)
    target = torch.randint(vocabulary, (tokens,), generator=g, device=timer.device)
    mask = torch.rand(tokens, generator=g, device=timer.device) < share
    live = int(mask.sum())
    upstream = torch.randn(tokens, generator=g, device=timer.device)
    functions = {"aslfast": lambda h, w: linear_logprob(h, w, target, mask=None if share == 1.0 else mask)}
    for name, function in peers()[0].items():
        functions[name] = lambda h, w, f=function: f(h[mask], w, target[mask])
    rows = []
    errors = {name: error_of(f, hidden, weight, target, mask) for name, f in functions.items()}
    for name, products in PASSES.items():
        runs = {}
        for side, function in functions.items():
            up = upstream if side == "aslfast" else upstream[mask]
            runs[side] = step_of(function, hidden, weight, up, name)
        for side, row in timer.compare(runs).items():
            row |= {"side": side, "pass": name, "shape": shape, "live": live, "error": errors[side]}
            if "ms" in row and tflops is not None:
                row["tflops"] = round(products * 2 * live * width * vocabulary / row["ms"] / 1e9, 1)
                row["share_of_floor"] = round(row["tflops"] / tflops, 3)
            rows.append(row)
    return rows


def step_of(function: Callable, hidden: Tensor, weight: Tensor, upstream: Tensor, name: str) -> Callable[[], Any]:
    def forward() -> Any:
        with torch.no_grad():
            return function(hidden, weight)

    def both() -> Any:
        leaf_hidden = hidden.detach().requires_grad_()
        leaf_weight = weight.detach().requires_grad_(name == "trainable head")
        leaves = [leaf for leaf in (leaf_hidden, leaf_weight) if leaf.requires_grad]
        return torch.autograd.grad(function(leaf_hidden, leaf_weight), leaves, upstream.to(torch.float32))

    return forward if name == "forward" else both


def error_of(function: Callable, hidden: Tensor, weight: Tensor, target: Tensor, mask: Tensor) -> float | str:
    """The largest error of log-probs on 32 live rows, against float64."""
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


def logits_rows(timer: Timer, tokens: int, vocabulary: int, seed: int, gbps: float | None) -> list[dict]:
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
            if "ms" in row and gbps is not None:
                row["gbps"] = round(passes * logits.numel() * logits.element_size() / row["ms"] / 1e6, 1)
                row["share_of_floor"] = round(row["gbps"] / gbps, 3)
            rows.append(row)
    return rows


def loss_rows(timer: Timer, tokens: int, sequences: int, seed: int) -> list[dict]:
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


def ceilings(timer: Timer) -> dict[str, float]:
    """What this device does at best: one bf16 product of random numbers at the first shape, and a copy of 4 GiB."""
    tokens, width, vocabulary = SHAPES[0]
    a, b = (torch.randn(n, width, device="cuda", dtype=torch.bfloat16) for n in (tokens, vocabulary))
    source = torch.empty(4 << 30, dtype=torch.int8, device="cuda").random_()
    out, sink = torch.empty(tokens, vocabulary, device="cuda", dtype=torch.bfloat16), torch.empty_like(source)
    rows = timer.compare({"product": lambda: torch.mm(a, b.T, out=out), "copy": lambda: sink.copy_(source)})
    return {
        "tflops": round(2 * tokens * width * vocabulary / rows["product"]["ms"] / 1e9, 1),
        "copy_gbps": round(2 * source.numel() / rows["copy"]["ms"] / 1e6, 1),
    }


def stamp(args: argparse.Namespace) -> dict[str, Any]:
    def output(*words: str) -> str:
        return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    commit = args.commit or output("git", "rev-parse", "HEAD")
    if not args.commit and output("git", "status", "--porcelain") and not args.small:
        sys.exit("bench_kernels: the tree differs from its commit; commit first")
    asked = "driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    gpu = None if args.small else output("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader")
    return {
        "bench": "kernels",
        "rehearsal": args.small,
        "commit": commit,
        "device": platform.machine() if args.small else torch.cuda.get_device_name(),
        asked: gpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {
            name: versions().get(name) for name in ("torch", "triton", "liger-kernel", "cut-cross-entropy", "trl")
        },
        "seed": args.seed,
        "n": args.repeats,
        "not_importable": peers()[1],
    }


def versions() -> dict[str, str]:
    from importlib.metadata import distributions

    return {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions() if d.metadata["Name"]}


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "pass",
        "shape",
        "live",
        "side",
        "ms",
        "p20",
        "p80",
        "tflops",
        "gbps",
        "share_of_floor",
        "peak_mib",
        "launches",
        "error",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row.get(column, "") for column in head]
        if "failed" in row:
            cells[4] = f"failed ({row['failed'][:60]})"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_kernels.json")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="the commit measured, where the tree was copied without its .git")
    parser.add_argument("--small", action="store_true", help="rehearse on the CPU: tiny shapes, nothing written")
    parser.add_argument(
        "--test-first", action="store_true", help="run tests/kernels/triton on the GPU; stop if they fail"
    )
    args = parser.parse_args()
    if args.small:
        timer = Timer("cpu", 2)
        rows = [*head_rows(timer, (40, 16, 300), 0.4, args.seed, None), *logits_rows(timer, 8, 300, args.seed, None)]
        print(json.dumps(stamp(args) | {"rows": rows + loss_rows(timer, 64, 16, args.seed)}, indent=1))
        return
    if not torch.cuda.is_available():
        print("bench_kernels: not measured: no CUDA device here (--small rehearses on the CPU)")
        return
    if args.test_first:
        tests = ROOT / "tests" / "kernels" / "triton"
        path = os.pathsep.join([*sys.path[:1], str(ROOT)])
        command = [sys.executable, "-m", "pytest", "-q", f"--confcutdir={tests}", str(tests)]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    result = stamp(args)
    timer = Timer("cuda", args.repeats)
    result["ceilings"] = ceilings(timer)
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for share in LIVE_SHARES:
            rows += head_rows(timer, shape, share, args.seed, result["ceilings"]["tflops"])
    rows += logits_rows(timer, SHAPES[0][0], SHAPES[0][2], args.seed, result["ceilings"]["copy_gbps"])
    rows += [row for tokens in (8192, 65536, 1 << 20) for row in loss_rows(timer, tokens, 512, args.seed)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
