"""The paper's claims in small, on the lab: one command per claim; arms.toml says what its arms are, arms2.toml those of
the second world.

    python -m bench.paper_claims.bench_claims a --out runs/claims
    python -m bench.paper_claims.bench_claims a --world 2 --out runs/claims2

Trains each arm with each seed into runs/claims/<arm>-s<seed>, at most two at a time (--jobs), one thread each. Resumes
runs that were stopped and skips those that are finished (claims share arms), then writes claims-a.json there and prints
what it found. --collect trains nothing. Runs made elsewhere have no stamp of their own: --made-at names the commit that
made them. A run with another configuration than the arm's is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import append_line
from bench.paper_claims.arms import FILES, NAMES, Arm, Claim, read_claims
from bench.paper_claims.finished_runs import check_same, finished, gather, read_made, started
from bench.paper_claims.report_claims import section
from bench.shared.stamp import git, stamp


def train(arm: Arm, seed: int, runs: Path, made: dict[str, Any]) -> None:
    """Train one run to its end. Raise UserError if its folder holds another run, or if training fails."""
    run = arm.folder(runs, seed)
    if started(run):
        check_same(run, arm, seed)
        if finished(run):
            return
    append_line(_stamps(run), made)
    log = run.with_suffix(".log")
    with log.open("ab") as out:
        done = subprocess.run(
            command(arm, seed, run), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out
        )
    if done.returncode:
        raise UserError(f"{run}: training ended with code {done.returncode}; see {log}, then repeat the command")


def command(arm: Arm, seed: int, run: Path) -> list[str]:
    """Return the command that trains the run, or resumes it."""
    train = [sys.executable, "-m", "aslfast", "train", "--quiet"]
    if started(run):
        return [*train, "--resume", str(run)]
    settings = [word for override in arm.overrides for word in ("--set", override)]
    return [*train, "--recipe", arm.recipe, "--seed", str(seed), "--out", str(run), *settings]


def _stamps(run: Path) -> Path:
    """Return the file of the run's stamps: next to its folder, which must be empty for a new run."""
    return run.with_suffix(".made.jsonl")


def train_all(claim: Claim, seeds: list[int], runs: Path, jobs: int, made: dict[str, Any]) -> None:
    """Train all runs of a claim. Raise UserError for an invalid arm before any training, else at the first failure."""
    for arm in claim.arms:
        arm.config(seeds[0])
    train_runs([(arm, seed) for seed in seeds for arm in claim.arms], runs, jobs, made)


def train_runs(wanted: Sequence[tuple[Arm, int]], runs: Path, jobs: int, made: dict[str, Any]) -> None:
    """Train arms with their seeds, so many at a time. Raise UserError at the first failure."""
    runs.mkdir(parents=True, exist_ok=True)
    executor = ThreadPoolExecutor(jobs)
    try:
        for run in [executor.submit(train, arm, seed, runs, made) for arm, seed in wanted]:
            run.result()
    finally:
        executor.shutdown(cancel_futures=True)  # else Ctrl-C would end two runs and start the next two


def collect(claim: Claim, seeds: list[int], runs: Path, made_at: str | None) -> dict[str, Any]:
    """Return the claim's runs as JSON data. Raise UserError if one is missing, unfinished, another's or unstamped."""
    return {
        "claim": claim.key,
        "title": claim.title,
        "sentence": claim.sentence,
        "checks": claim.checks,
        "show_reward": claim.show_reward,
        "budget": claim.budget,
        "seeds": seeds,
        "arms": {
            arm.key: {
                "name": arm.name,
                "recipe": arm.recipe,
                "set": arm.overrides,
                "runs": {str(seed): _one(arm, seed, runs, made_at, claim.budget) for seed in seeds},
            }
            for arm in claim.arms
        },
    }


def _one(arm: Arm, seed: int, runs: Path, made_at: str | None, budget: int | None) -> dict[str, Any]:
    run = arm.folder(runs, seed)
    made = read_made(_stamps(run)) or ([{"commit": made_at}] if made_at else [])
    if not made:
        raise UserError(f"{run}: its commit is not recorded; name it with --made-at")
    found = gather(run, arm, seed, made)
    sampled = sum(entry["sampled_tokens"] for entry in found["rounds"])
    if budget and sampled < budget:
        raise UserError(f"{run}: {sampled:,} sampled tokens of a budget of {budget:,}; give its arm more rounds")
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", help="its letter")
    parser.add_argument("--world", type=int, choices=FILES, default=1, help="of the lab")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0, 1, ..., as many as the claim says")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, shared by all claims of a world")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="runs at a time")
    parser.add_argument("--collect", action="store_true", help="only collect finished runs")
    parser.add_argument("--made-at", help="commit that made the runs that have no stamp of their own")
    parser.add_argument("--allow-dirty", action="store_true")
    args = parser.parse_args()
    try:
        claims = read_claims(FILES[args.world])
    except UserError as error:
        parser.error(str(error))
    if args.claim not in claims:
        parser.error(f"claim {args.claim!r}: world {args.world} has {', '.join(claims)}")
    claim = claims[args.claim]
    seeds = args.seeds or list(range(claim.seeds))
    if len(set(seeds)) < 3:
        parser.error("--seeds: at least 3 different ones, or the interval says nothing")
    made, made_at = stamp("claims", args.allow_dirty), git("rev-parse", args.made_at) if args.made_at else None
    try:
        if not args.collect:
            train_all(claim, seeds, args.out, args.jobs, made)
        result = {**made, **collect(claim, seeds, args.out, made_at)}
    except UserError as error:
        sys.exit(f"claims: {error}")
    write_text(args.out / f"{NAMES[args.world]}-{claim.key}.json", json.dumps(result, indent=1) + "\n")
    print("\n".join(section(result)))


if __name__ == "__main__":
    main()
