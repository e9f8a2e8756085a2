"""Measure aslfast_kernels on a GPU against torch, liger-kernel, cut-cross-entropy and TRL, all in one run.

    python -m bench.kernels.bench_kernels --out bench/results/kernels.json
    python -m bench.kernels.bench_kernels --test-first    # runs the kernels' tests on the GPU before
    python -m bench.kernels.bench_kernels --small         # a rehearsal on a CPU; its times mean nothing

Log-probs from hidden states: ms, TFLOP/s of the products that the pass cannot do without (1, 2 with a frozen head, 3
with a trainable one: 2 L D V each, L loss tokens), as a fraction of the rate of one bf16 product measured here, peak
MiB beyond the inputs, error against float64 on 32 rows. From logits: GB/s of the bytes that cannot be spared (forward:
one read; with backward in place: two reads and a write), as a fraction of a copy's. Advantage and loss: kernels
launched and ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from bench.kernels.checkout import ROOT, make_importable

make_importable()

from bench.kernels.logprob_rows import head_rows, logits_rows  # noqa: E402
from bench.kernels.loss_rows import loss_rows  # noqa: E402
from bench.kernels.peers import peers  # noqa: E402
from bench.kernels.timing import Row, Timer  # noqa: E402
from bench.shared.results import write_result  # noqa: E402

SHAPES = [(8192, 3584, 152064), (8192, 2048, 151936), (32768, 2048, 151936)]
KEPT_FRACTIONS = [1.0, 0.4]
COLUMNS = ("pass", "shape", "loss_tokens", "side", "ms", "p20", "p80", "tflops", "gbps")
COLUMNS += ("fraction_of_peak", "peak_mib", "launches", "error")


def peaks(timer: Timer) -> dict[str, float]:
    """Measure this device at its best: one bf16 product of random numbers at the first shape, a copy of 4 GiB."""
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
    """Return what the results belong to; end the program where the tree differs from its commit."""

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
    """Return the version of every installed package."""
    return {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions() if d.metadata["Name"]}


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [row.get(column, "") for column in COLUMNS]
        if "failed" in row:
            cells[4] = f"failed ({row['failed'][:60]})"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run_tests() -> None:
    """Run the kernels' tests on this GPU; raise CalledProcessError where one fails."""
    folder = ROOT / "tests" / "kernels"
    path = os.pathsep.join([*sys.path[:1], str(ROOT)])
    # The suite's conftest is cut off: it needs more than kernels do.
    command = [sys.executable, "-m", "pytest", "-q", f"--confcutdir={folder}"]
    command += [str(folder / "triton"), str(folder / "test_logprob_ops.py")]
    environment = os.environ | {"PYTHONPATH": path, "KERNELS_IMPL": "triton"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def rehearse(args: argparse.Namespace) -> None:
    """Print every row at tiny shapes on the CPU."""
    timer = Timer("cpu", 2)
    rows = [*head_rows(timer, (40, 16, 300), 0.4, args.seed, None), *logits_rows(timer, 8, 300, args.seed, None)]
    print(json.dumps(stamp(args) | {"rows": rows + loss_rows(timer, 64, 16, args.seed)}, indent=1))


def row_groups(timer: Timer, seed: int, peaks: dict[str, float]) -> Iterator[list[Row]]:
    """Yield every row, in groups that belong together."""
    for shape in SHAPES:
        for kept_fraction in KEPT_FRACTIONS:
            yield head_rows(timer, shape, kept_fraction, seed, peaks["tflops"])
    yield logits_rows(timer, SHAPES[0][0], SHAPES[0][2], seed, peaks["copy_gbps"])
    for tokens in (8192, 65536, 1 << 20):
        yield loss_rows(timer, tokens, 512, seed)


def measure(args: argparse.Namespace) -> None:
    """Write the rows to `args.out` as they come and print the table."""
    result = stamp(args)
    timer = Timer("cuda", args.repeats)
    result["peaks"] = peaks(timer)
    rows: list[Row] = []
    for group in row_groups(timer, args.seed, result["peaks"]):
        rows += group
        write_result(args.out, result | {"rows": rows})  # a run that is stopped leaves what it measured
    print(table(rows))


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_kernels.json")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="the commit measured, where the tree was copied without its .git")
    parser.add_argument("--small", action="store_true", help="rehearse on the CPU: tiny shapes, nothing written")
    parser.add_argument("--test-first", action="store_true", help="run the kernels' tests before; stop on a failure")
    args = parser.parse_args()
    if args.small:
        rehearse(args)
    elif not torch.cuda.is_available():
        print("bench_kernels: not measured: no CUDA device here (--small rehearses on the CPU)")
    else:
        if args.test_first:
            run_tests()
        measure(args)


if __name__ == "__main__":
    main()
