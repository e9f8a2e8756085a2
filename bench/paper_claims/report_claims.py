"""The tables and the plot of the paper's claims in small, from the results of bench_claims.py.

    python -m bench.paper_claims.report_claims bench/results/claims-*.json

Rewrites what is between the markers of docs/results/claims.md, and docs/img/claims.png. Every answer follows from a
number by the rules in statistics.py; the wording of claims is that of arms.toml. A claim without a result is "not
measured yet".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from bench.paper_claims.arms import Check, Claim, read_claims
from bench.paper_claims.metrics import (
    better,
    checks,
    differences,
    entries,
    last_round,
    mean_of,
    mean_sum,
    scores_RK,
)
from bench.paper_claims.plots import draw
from bench.paper_claims.statistics import YES, Interval, answer, answer_of_all, interquartile_mean
from bench.shared.pages import replace_block
from bench.shared.results import Result, read_result
from bench.shared.stamp import ROOT

BEGIN, END = "<!-- made by bench/paper_claims/report_claims.py -->", "<!-- end -->"


def read_results(files: Iterable[Path], claims: Mapping[str, Claim]) -> dict[str, Result]:
    """Return the results by claim, in order."""
    found = {result["claim"]: result for result in map(read_result, files)}
    return {key: with_wording(found[key], claims[key]) for key in sorted(found)}


def with_wording(result: Result, claim: Claim) -> Result:
    """Return the result with the claim worded as it is now. Raise UserError if it checked something else."""
    checked, wanted = ([Check.read(check).terms for check in checks] for checks in (result["checks"], claim.checks))
    if checked != wanted:
        raise UserError(
            f"claim {claim.key}: its result has other checks than arms.toml; collect it again with --collect"
        )
    return {**result, "title": claim.title, "sentence": claim.sentence, "checks": claim.checks}


def summary_table(results: Mapping[str, Result], claims: Mapping[str, Claim]) -> Iterator[str]:
    """Yield one row per claim: the final accuracy of its arms, its first check, and the answer."""
    yield "| the paper's claim | final accuracy: interquartile mean (95%) | first check, points (95%) | supported? |"
    yield "|---|---|---|---|"
    for key, claim in claims.items():
        cells = _row(results[key]) if key in results else ["not measured yet", "", ""]
        yield f"| ({key}) {claim.sentence} | {' | '.join(cells)} |"


def _row(result: Result) -> list[str]:
    ends = [
        f"{arm['name']} {percent_interval(interquartile_mean(scores_RK(result, key, last_round(result, key))))}"
        for key, arm in result["arms"].items()
    ]
    found = checks(result)
    (first, difference), answers = found[0], [answer(interval) for _, interval in found]
    more = f" (yes in {answers.count(YES)} of {len(answers)} checks)" if len(answers) > 1 else ""
    return ["; ".join(ends), f"{first.says}: {points(difference)}", f"**{answer_of_all(answers)}**{more}"]


def section(result: Result) -> Iterator[str]:
    """Yield a claim's section of docs/results/claims.md."""
    yield from (f"## ({result['claim']}) {result['title'].capitalize()}", "", result["sentence"], "")
    yield from check_table(result)
    yield ""
    yield from arm_table(result)
    yield from ("", made_how(result))


def check_table(result: Result) -> Iterator[str]:
    """Yield one row per check: its sum by seed, the interval, the answer."""
    seeds = ", ".join(map(str, result["seeds"]))
    yield f"| check | points, seeds {seeds} | mean (95%) | P(better) | supported? |"
    yield "|---|---:|---:|---:|---|"
    for check, difference in checks(result):
        each = ", ".join(f"{100 * value:+.1f}" for value in differences(result, check))
        yield f"| {check.says} | {each} | {points(difference)} | {better(result, check)} | {answer(difference)} |"
    yield f"| **all checks** | | | | **{answer_of_all([answer(d) for _, d in checks(result)])}** |"


def arm_table(result: Result) -> Iterator[str]:
    """Yield one row per arm: accuracy by round and at the end, means over seeds of the rest."""
    yield (
        "| arm | accuracy by round, % | final (95%) | final, each seed | 1/2/3 hops | judge | "
        "reward, round 1 to last | solvable | question pool | sampled tokens | minutes |"
    )
    yield "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for key, arm in result["arms"].items():
        yield f"| {arm['name']} | {' | '.join(arm_cells(result, key))} |"


def arm_cells(result: Result, arm: str) -> list[str]:
    """Return an arm's cells."""
    last = last_round(result, arm)
    by_round = [interquartile_mean(scores_RK(result, arm, number)) for number in range(last + 1)]
    ended = entries(result, arm, last)
    tokens, seconds = (mean_sum(result, arm, key) for key in ("sampled_tokens", "seconds"))
    return [
        " ".join(f"{100 * interval.value:.0f}" for interval in by_round),
        percent_interval(by_round[-1]),
        ", ".join(f"{entry['accuracy']:.1%}" for entry in ended),
        "/".join(f"{100 * value:.0f}" for value in scores_RK(result, arm, last).mean(axis=0)),
        percent(mean_of(ended, "grm")),
        " to ".join(percent(mean_of(entries(result, arm, number), "reward")) for number in (1, last)),
        percent(mean_of(ended, "solvable")),
        f"{mean_of(ended, 'pool_questions'):.0f}",
        f"{tokens / 1e6:.2f}M",
        f"{seconds / 60:.0f}",
    ]


def made_how(result: Result) -> str:
    """Return the stamp: what trained the runs, on what, and on how many questions they were evaluated."""
    runs = [run for arm in result["arms"].values() for run in arm["runs"].values()]
    commits = sorted({made["commit"][:8] for run in runs for made in run["made"]})
    torch = sorted({run["software"].get("torch", "unknown") for run in runs})
    stamps = [result, *(made for run in runs for made in run["made"])]
    dirty = ", uncommitted changes" if any(stamp.get("dirty") for stamp in stamps) else ""
    settings = "; ".join(f"{arm['name']}: {arm['recipe']}, {' '.join(arm['set'])}" for arm in result["arms"].values())
    return (
        f"{runs[0]['rounds'][0]['n_eval']} held-out questions per seed and round. {settings}. Runs trained at commit "
        f"{', '.join(commits)}, torch {', '.join(torch)}; collected at {result['commit'][:8]}{dirty} on "
        f"{result['device']}, {result['cores']} cores, {result['date'][:10]}."
    )


def percent_interval(interval: Interval) -> str:
    """Return an interval of accuracies."""
    return f"{100 * interval.value:.1f}% ({100 * interval.low:.0f}-{100 * interval.high:.0f})"


def points(interval: Interval) -> str:
    """Return an interval of differences, in percentage points."""
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def percent(value: float | None) -> str:
    """Return a percentage; "-" for None."""
    return "-" if value is None else f"{100 * value:.1f}%"


def docs_block(results: Mapping[str, Result], claims: Mapping[str, Claim]) -> list[str]:
    """Return the summary, the plot and one section per claim."""
    lines = ["## The answers", "", *summary_table(results, claims), ""]
    lines += ["![Accuracy by round, a panel per claim](../img/claims.png)", ""] if results else []
    for key, claim in claims.items():
        missing = [f"## ({key}) {claim.title.capitalize()}", "", claim.sentence, "", "Not measured yet."]
        lines += [*(section(results[key]) if key in results else missing), ""]
    return lines[:-1]


def between(page: str, lines: list[str]) -> str:
    """Return the page with these lines between its markers."""
    return replace_block(page, BEGIN, END, lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    claims = read_claims()
    results = read_results(args.results, claims)
    page = ROOT / "docs" / "results" / "claims.md"
    write_text(page, between(page.read_text(encoding="utf-8"), docs_block(results, claims)))
    draw(results, ROOT / "docs" / "img" / "claims.png")


if __name__ == "__main__":
    main()
