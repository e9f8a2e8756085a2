"""The tables and the plot of docs/learner.md, from what bench_learner.py, bench_round.py and bench_soak.py wrote.

    python -m bench.learner.report_learner

Reads learner-cpu.json, round-cpu.json, soak.json and those of a GPU in bench/results; what is missing is "not
measured". Rewrites what is between the markers of docs/learner.md, and docs/img/learner.png. The table of algorithms
comes from the recipes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aslfast.config.algorithms import algorithm_names, settings_of
from aslfast.files.atomic import write_text
from bench.learner.plots import draw
from bench.learner.tables import round_lines, round_sentence, soak_lines, soak_sentence, step_lines, step_sentence
from bench.shared.pages import replace_block
from bench.shared.results import Result, read_result
from bench.shared.stamp import ROOT

PAGE, PLOT = ROOT / "docs" / "learner.md", ROOT / "docs" / "img" / "learner.png"
BEGIN, END = "<!-- {}: made by bench/learner/report_learner.py -->", "<!-- end -->"
GPU = "Qwen2.5-7B's shape on a GPU"
FILES = {  # by their names in the page
    "step": "learner-cpu.json", "step on a GPU": "learner-gpu.json", "round": "round-cpu.json",
    "round on a GPU": "round-gpu.json", "soak": "soak.json",
}  # fmt: skip
INTRODUCTIONS = {
    "step": (
        "`python -m bench.learner.bench_learner --out bench/results/learner-cpu.json`: one optimizer step, packed with "
        "common prefixes computed once; packed without sharing; padded as in TRL (`bench/learner/padded_step.py`), "
        "with rows sorted by length and in sampling order. Matmul rate: the FLOPs that the variant cannot avoid, as "
        "a fraction of the rate of one large matrix product."
    ),
    "round": (
        "`python -m bench.round.bench_round --out bench/results/round-cpu.json`: the parts do not overlap and add up "
        "to the phase. Rollout: sampling alone; tool: searches; reward: rewards, labels, parsing of verdicts; learn: "
        "the learner's step; sync: adapters to the sampler; commit: trajectories, learner state, ledger; monitor: its "
        "metrics; rest: tasks, advantages, records."
    ),
    "soak": (
        "`python -m bench.round.bench_soak --out bench/results/soak.json`: memory, open files, threads and "
        "processor time per token after each optimizer step. Start-up fills pools and caches, so the second quarter of "
        "the steps is compared with the last."
    ),
}


def read_results(folder: Path) -> dict[str, Result]:
    """Return the results that exist, by their names in FILES."""
    return {name: read_result(folder / file) for name, file in FILES.items() if (folder / file).exists()}


# --- what was measured -------------------------------------------------------------------------------------------


def measured_block(results: Mapping[str, Result]) -> list[str]:
    """Return the lines of what was measured."""
    lines = ["![The rate of a step, a round by part, a long run](img/learner.png)", ""] if results else []
    lines += section("The step", "step", results, step_lines, step_sentence)
    lines += section("A round by part", "round", results, round_lines, round_sentence)
    lines += section("Hundreds of steps in one process", "soak", results, soak_lines, soak_sentence)
    return lines[:-1]


def section(
    title: str, name: str, results: Mapping[str, Result], lines_of: Callable[[Result], Iterable[str]],
    sentence_of: Callable[[Result], str],
) -> Iterator[str]:  # fmt: skip
    """Yield a table for each result, and below it the sentence that says what was measured."""
    yield from (f"### {title}", "", INTRODUCTIONS[name], "")
    if name not in results:
        yield from ("Not measured yet.", "")
    for key in (name, f"{name} on a GPU"):
        if key in results:
            yield from (*lines_of(results[key]), "", sentence_of(results[key]), "")
        elif key in FILES and key != name:
            yield from (f"{GPU}: not measured.", "")


# --- the algorithms ----------------------------------------------------------------------------------------------


def algorithm_block() -> list[str]:
    """Return the table of algorithms, all of their settings."""
    named = {name: settings_of(name) for name in algorithm_names()}
    return [
        "| `algorithm` | loss | clip below, above | KL | aggregate | advantage | zero-variance groups |",
        "|---|---|---|---|---|---|---|",
        *(f"| `{name}` | {' | '.join(cells(tree['loss'], tree['advantage']))} |" for name, tree in named.items()),
    ]


def cells(loss: Mapping[str, Any], advantage: Mapping[str, Any]) -> list[str]:
    """Return an algorithm's cells."""
    ratio = f", a ratio per {loss['ratio_level']}" if loss["kind"] in ("ppo", "cispo") else ""
    kind, dual = f"{loss['kind']}{ratio}", f", dual {loss['dual_clip']:g}"
    by = f", by {advantage['group_by']}" if advantage["group_by"] != "prompt" else ""
    constant = f" {loss['trajectory_tokens']}" if loss["aggregate"] == "constant" else ""
    return [
        kind + dual * bool(loss["dual_clip"]),
        f"{loss['clip_low']:g}, {loss['clip_high']:g}" if ratio else "none",
        f"{loss['kl_coef']:g} x {loss['kl_estimator']}" if loss["kl_coef"] else "none",
        f"{loss['aggregate']}{constant}",
        f"baseline {advantage['baseline']}, scale {advantage['scale']}{by}",
        "left out" if advantage["drop_zero_variance"] else "counted",
    ]


# --- the page ----------------------------------------------------------------------------------------------------


def rewritten(page: str, results: Mapping[str, Result]) -> str:
    """Return the page with both blocks brought up to date."""
    return between(between(page, "algorithms", algorithm_block()), "measured", measured_block(results))


def between(page: str, name: str, lines: list[str]) -> str:
    """Return the page with these lines between the markers of that name."""
    return replace_block(page, BEGIN.format(name), END, lines)


def main() -> None:
    """Run from the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = read_results(ROOT / "bench" / "results")
    write_text(PAGE, rewritten(PAGE.read_text(encoding="utf-8"), results))
    if results:
        draw(results, PLOT)


if __name__ == "__main__":
    main()
