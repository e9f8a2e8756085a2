"""The league: recipes side by side in the lab, each with the same world, seeds and budget of sampled tokens.

    python -m bench.league.play ssp-tiny spice-tiny search-r1-tiny --seeds 0 1 2 --tokens 300000 --out runs/league
    python -m bench.league.play all --world 2 --out runs/league2

A recipe's first run, one round with the first seed, tells how many tokens a round samples; all its runs then have as
many rounds as the budget is worth, one at least. They train into runs/league/RECIPE-sSEED, at most two at a time
(--jobs), one thread each; what was stopped is resumed, what is finished is skipped. league.json and a table come of it:
every figure is read at the budget, between the two rounds around it. `all` is every recipe of the lab.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aslfast.config import load_recipe, recipe_names
from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from aslfast.files.jsonl import read_lines
from aslfast.metrics.run_log import RunLog
from bench.league.rows import Entry, entry_of
from bench.league.table import tables
from bench.paper_claims.arms import Arm
from bench.paper_claims.bench_claims import train_runs
from bench.shared.stamp import stamp

# settings of a world of the lab: where its passages and chains are, and the turns and tokens that those take
WORLDS = {
    1: (),
    2: (
        "data.world=2", "model.path=lab2", "data.eval_count=200", "sampler.max_turns=6", "sampler.max_context=640",
        "generator.hops=[1,2,3,4]",
    ),
}  # fmt: skip


def lab_recipes() -> list[str]:
    """Return the names of the lab's recipes; not `tiny2`, which is `tiny` in the second world."""
    data = {name: load_recipe(name).data for name in recipe_names()}
    return [name for name in data if data[name].lab and data[name].world == 1]


def arm_of(recipe: str, rounds: int, settings: Sequence[str]) -> Arm:
    """Return a recipe as an arm of so many rounds, on one thread."""
    name = Path(recipe).stem if recipe.endswith(".toml") else recipe
    return Arm(name, name, recipe, ("threads=1", *settings, f"rounds={rounds}"))


def rounds_for(pace: Arm, seed: int, budget: int, runs: Path) -> int:
    """Return how many rounds sample the budget, by a run of one round. Raise UserError."""
    sampled = sum(line["sampled_tokens"] for line in read_lines(pace.folder(runs, seed) / "metrics.jsonl"))
    if not sampled:
        raise UserError(f"{pace.recipe}: its first round samples no token, so no budget can be given to it")
    return max(1, round(budget / sampled))


def play(recipes: Sequence[str], seeds: Sequence[int], budget: int, settings: Sequence[str], out: Path, jobs: int,
         made: dict[str, Any]) -> dict[str, list[Entry]]:  # fmt: skip
    """Train what is not trained; return each recipe's entries by seed. Raise UserError."""
    paces, first = [arm_of(name, 1, settings) for name in recipes], seeds[0]
    train_runs([(pace, first) for pace in paces], out / "pace", jobs, made)
    rounds = [rounds_for(pace, first, budget, out / "pace") for pace in paces]
    arms = [arm_of(name, n, settings) for name, n in zip(recipes, rounds, strict=True)]
    train_runs([(arm, seed) for seed in seeds for arm in arms], out, jobs, made)
    return {arm.key: [entry_of(RunLog.read(arm.folder(out, seed)), seed, budget) for seed in seeds] for arm in arms}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="names of recipes of the lab or files, or all")
    parser.add_argument("--world", type=int, choices=WORLDS, default=1, help="of the lab")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=300_000, help="sampled tokens of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, new or to go on with")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="runs at a time")
    parser.add_argument("--set", action="append", default=[], help="key=value of all recipes")
    parser.add_argument("--allow-dirty", action="store_true")
    args = parser.parse_args()
    made = stamp("league", args.allow_dirty)
    recipes = lab_recipes() if args.recipes == ["all"] else args.recipes
    settings = [*WORLDS[args.world], *args.set]
    try:
        entries = play(recipes, args.seeds, args.tokens, settings, args.out, args.jobs, made)
    except UserError as error:
        sys.exit(f"league: {error}")
    league = {name: [entry.as_json() for entry in own] for name, own in entries.items()}
    result = {**made, "tokens": args.tokens, "set": settings, "seeds": args.seeds, "league": league}
    write_text(args.out / "league.json", json.dumps(result, indent=1) + "\n")
    print("\n".join(tables(result)))


if __name__ == "__main__":
    main()
