r"""Rollouts of one generator step: without barriers, and as others play them. The same trajectories for every variant.

    python -m bench.rollout.bench_rollout --sampler sglang --out bench/results/rollout-cpu.json
    python -m bench.rollout.bench_rollout --model random-7b --device cuda --dtype bfloat16 --size 7b --rows 128 \
        --out bench/results/rollout-h100.json

ours            one engine, three adapters; a question's attempts start when it is written, a verdict when its attempt
                is done; the gate keeps as many trajectories under way as the engine has rows
barriers        the same engine; all questions, then all attempts, then all verdicts, turn by turn: everyone waits for
                the slowest turn, and then for the slowest search
radix off       ours, without reuse of prefixes
engine per role ours on three engines of a third of the rows, one a role
merged weights  an engine without adapters, each role's merged into its weights: the roles in three stages, without a
                barrier inside one; the weights of a stage are there when it begins, loading them costs nothing here

Every variant other than barriers is measured in turns with ours, in one run; engines that are not measured are stopped
meanwhile. All engines share one core on a CPU (--pin), as they would share a GPU. Lengths are forced: see
rollout_workload.py.

Figures: sampled tokens/s; trajectories/s; idle: the share of row-time without a request (1 - rows in use, on average),
the share of wall time with fewer requests under way than rows (queued ones count as under way), and with none, weighted
by rows where there are several engines; reuse: the share of reusable tokens that was reused (sampler/reuse.py);
seconds of a trajectory from its first request to its last, p50 and p99.

On a GPU every engine takes --gpu-memory of it: two at once (barriers, radix off), four for the other variants, and the
trainer's copy of the base beside them: a 7B base needs a GPU of 140 GB for all, one of 80 GB for the first two (0.3).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aslfast.checkpoint.run_dir import RunDir
from aslfast.cli.progress import quiet_libraries
from aslfast.config import RunConfig, load_recipe
from aslfast.core import ROLES, Role, Task
from aslfast.index.bm25 import BM25Index
from aslfast.lab.world import World
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.prompts import role_tasks
from aslfast.prompts.chat_template import Chat
from aslfast.rollout.multi_turn import Limits
from aslfast.rounds.context import Loop
from aslfast.sampler.sglang.sampler import SGLangSampler
from aslfast.trainer.build import build_search_tool
from bench.rollout.engines import SHAPES, ByRole, Makers, Watched, awake, endless_base, give_adapters_weight
from bench.rollout.workload import Lengths, LongTailed, as_graph, role_by_role, turn_by_turn
from bench.shared.stamp import quantiles, stamp

VARIANTS = ("barriers", "radix off", "engine per role", "merged weights")
SETTINGS = {  # questions = tasks x samples, and what follows from each
    "full": [
        "generator.prompts_per_step=6",
        "generator.group_size=2",
        "generator.rollouts_per_question=5",
        "generator.self_checks=3",
    ],
    "small": [
        "generator.prompts_per_step=3",
        "generator.group_size=2",
        "generator.rollouts_per_question=3",
        "generator.self_checks=2",
    ],
    "rehearsal": [
        "generator.prompts_per_step=2",
        "generator.group_size=1",
        "generator.rollouts_per_question=2",
        "generator.self_checks=1",
    ],
    "7b": [
        "generator.prompts_per_step=16",
        "generator.group_size=4",
        "generator.rollouts_per_question=10",
        "generator.self_checks=5",
    ],
}


@dataclass(frozen=True)
class Bench:
    """What all variants share."""

    config: RunConfig
    model: Any
    tokenizer: Any
    makers: Makers
    index: BM25Index
    topics: Sequence[str]
    work: Path
    lengths: Lengths

    def loop(self, sampler: Any, adapters: bool = True) -> Loop:
        """A fresh one: every repeat has the same seeds. Nothing learns."""
        limits = Limits(max_context=self.config.sampler.max_context)
        tool = build_search_tool(self.config, self.index)
        temperature = self.config.sampler.temperature
        rollout = LongTailed(sampler, tool, Chat(self.tokenizer), limits, temperature, "", self.lengths, adapters)
        learner = Learner(self.model, self.config.learner, self.config.loss, temperature, ROLES)
        run = RunDir.create(tempfile.mkdtemp(dir=self.work), self.config)
        return Loop(self.config, rollout, learner, run, self.topics, lambda: None, lambda _: None)

    def tasks(self) -> list[Task]:
        count = self.config.generator.prompts_per_step
        return [role_tasks.generator_task(f"g{i}", self.topics[i], i % 3 + 1, "compact") for i in range(count)]


@dataclass(frozen=True)
class Variant:
    """`play` runs the step once on a fresh loop over `sampler`."""

    sampler: Any
    engines: Sequence[Watched]
    play: Callable[[Loop, Sequence[Task]], Any]
    adapters: bool = True


def variants(bench: Bench, name: str, ours: Watched) -> Variant:
    rows, makers = bench.config.sampler.max_running_requests, bench.makers
    if name == "ours":
        return Variant(ours, [ours], as_graph)
    if name == "barriers":
        return Variant(ours, [ours], turn_by_turn)
    if name == "radix off":
        made = makers.shared(rows, radix=False)
        return Variant(made, [made], as_graph)
    if name == "engine per role":
        thirds = {role: makers.shared(max(1, rows // len(ROLES))) for role in ROLES}
        return Variant(ByRole(thirds, lambda request: request.adapter or ""), list(thirds.values()), as_graph)
    merged = {role: makers.merged(role, rows) for role in ROLES}
    loaded: list[Role] = ["generator"]

    async def load(role: Role) -> None:
        loaded[:] = [role]

    sampler = ByRole(merged, lambda _: loaded[0])
    return Variant(sampler, list(merged.values()), partial(role_by_role, before=load), adapters=False)


def once(bench: Bench, name: str, variant: Variant) -> dict[str, float]:
    """One step's figures."""
    loop = bench.loop(variant.sampler, variant.adapters)
    for engine in variant.engines:
        fresh(engine)
    for engine in variant.engines:
        engine.restart()
    started = time.perf_counter()
    asyncio.run(variant.play(loop, bench.tasks()))
    seconds = time.perf_counter() - started
    n_engines = 1 if name == "merged weights" else len(variant.engines)  # merged: one engine, three sets of weights
    full = [engine.shares(seconds) for engine in variant.engines]
    shares = {key: sum(share[key] for share in full) / n_engines for key in full[0]}
    if name == "merged weights":  # two of three stand empty at any time because they are one
        shares["empty"] -= 2
        shares["below"] -= 2
    reuse = list(loop.meter.take().values())
    took: list[float] = loop.rollout.seconds  # type: ignore[attr-defined]
    return {
        "seconds": seconds,
        "tokens": loop.sampled_tokens,
        "trajectories": len(took),
        "tokens_per_s": loop.sampled_tokens / seconds,
        "trajectories_per_s": len(took) / seconds,
        "rows_idle": 1 - shares["rows"],
        "below_capacity": shares["below"],
        "empty": shares["empty"],
        "context_tokens": sum(r.context for r in reuse),
        "reusable": sum(r.reusable for r in reuse),
        "reused": sum(r.reused for r in reuse),
        "reused_of_reusable": 1 - sum(r.missed for r in reuse) / max(1, sum(r.reusable for r in reuse)),
        "p50_s": float(np.quantile(took, 0.5)),
        "p99_s": float(np.quantile(took, 0.99)),
    }


def fresh(engine: Watched) -> None:
    """Nothing is cached from the repeat before."""
    if isinstance(engine.sampler, SGLangSampler):
        engine.sampler.running_engine().call("flush_cache")
    else:
        engine.sampler.flush()  # type: ignore[attr-defined]


def measure(bench: Bench, names: Sequence[str], repeats: int, pin: bool) -> dict[str, Any]:
    """Every variant in turns with ours. A ratio is of two neighbours in time."""
    rows = bench.config.sampler.max_running_requests
    ours = bench.makers.shared(rows)
    runs: dict[str, list[dict[str, float]]] = {"ours": []}
    ratios: dict[str, list[float]] = {}
    for name in names:
        pair = {"ours": variants(bench, "ours", ours), name: variants(bench, name, ours)}
        if pin:
            pin_engines([engine for variant in pair.values() for engine in variant.engines])
        for repeat in range(-1, repeats):  # one to warm up
            seen = {}
            for side, variant in pair.items():
                with awake(variant.engines):
                    seen[side] = once(bench, side, variant)
                print(f"{name}: {side} {repeat}: {seen[side]['tokens_per_s']:.0f} tokens/s", file=sys.stderr)
            if repeat >= 0:
                for side, figures in seen.items():
                    runs.setdefault(side, []).append(figures)
                ratios.setdefault(name, []).append(seen["ours"]["tokens_per_s"] / seen[name]["tokens_per_s"])
        end(engine for engine in pair[name].engines if engine is not ours)
    assert len({run["tokens"] for side in runs.values() for run in side}) == 1, "the variants did different work"
    figures = {
        side: {key: quantiles([run[key] for run in found]) for key in found[0]} for side, found in runs.items() if found
    }
    return {"figures": figures, "ours_against": {name: quantiles(found) for name, found in ratios.items()}}


def end(engines: Any) -> None:
    for engine in engines:
        engine.sampler.close()


def pin_engines(engines: Sequence[Watched]) -> None:
    """All threads of all engines on the last core; this process keeps the others."""
    cores = sorted(os.sched_getaffinity(0))
    for engine in engines:
        if isinstance(engine.sampler, SGLangSampler):
            for pid in engine.sampler.running_engine().pids:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setaffinity(int(thread), cores[-1:])


def prepared(args: argparse.Namespace, work: Path) -> Bench:
    sampler = [f"sampler.kind={args.sampler}", f"sampler.max_running_requests={args.rows}", "sampler.max_context=1024"]
    model = [f"model.dtype={args.dtype}", f"model.device={args.device}", "sampler.share_base=false",
             f"sampler.gpu_memory_fraction={args.gpu_memory}"]  # fmt: skip
    config = load_recipe("tiny", [*SETTINGS[args.size], *sampler, *model, "tool.top_k=1", "generator.min_acceptance=0"])
    folder = endless_base(args.model, args.dtype, args.device, work / "base")
    config = replace(config, model=replace(config.model, path=str(folder)), threads=1)
    torch.set_num_threads(1)
    base, tokenizer = load_base(folder, getattr(torch, args.dtype), args.device)
    tokenizer.eos_token = None
    model = lora.add_adapters(base, config.lora.rank, config.lora.alpha, 0)
    give_adapters_weight(model, 0)
    world = World.make(0, "train")
    index = BM25Index.build(world.passages(), work / "index", threads=1)
    lengths = Lengths()
    if args.model == "random-7b":
        lengths = Lengths(median_tokens=80.0, most_tokens=1024, most_in_all=4096)
        config = replace(config, sampler=replace(config.sampler, max_context=8192))
    makers = Makers(config, model, tokenizer, work)
    return Bench(config, model, tokenizer, makers, index, sorted(world.facts), work, lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", choices=("local", "sglang"), default="sglang")
    parser.add_argument("--model", choices=("lab", *SHAPES), default="lab")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--gpu-memory", type=float, default=0.2, help="share of the GPU for each engine")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--size", choices=tuple(SETTINGS), default="full")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="engines on all cores")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench_rollout: not measured: no CUDA device")
        return
    head = stamp("rollout", args.allow_dirty)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        bench = prepared(args, Path(folder))
        with bench.makers.closing:
            found = measure(bench, args.variants, args.repeats, args.pin and args.device == "cpu")
    size = {key: getattr(bench.config.generator, key) for key in ("tasks", "samples", "attempts", "self_checks")}
    setting = {"sampler": args.sampler, "model": args.model, "dtype": args.dtype, "rows": args.rows, **size}
    if args.device == "cuda":
        head["device"] = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__}
    result = {**head, "versions": versions, "n": args.repeats, "setting": setting, "seed": bench.config.seed,
              "lengths": asdict(bench.lengths), **found}  # fmt: skip
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
