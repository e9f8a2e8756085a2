"""The tables and the plot of the paper's claims in small, from the results of bench_claims.py.

    python -m bench.paper_claims.report_claims bench/results/claims-*.json
    python -m bench.paper_claims.report_claims --world 2 bench/results/claims2-*.json

Rewrites what is between the markers of docs/results/claims.md, and docs/img/claims.png; for the lab's second world
claims2.md and claims2.png. Every answer follows from a number by the rules in statistics.py; the wording of claims is
that of arms.toml. A claim without a result is "not measured yet".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aslfast.errors import UserError
from aslfast.files.atomic import write_text
from bench.paper_claims.arms import FILES, NAMES, Check, Claim, read_claims
from bench.paper_claims.metrics import better, checks, differences, mean_of, mean_sum, moments, scores_RK, values
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
    yield "| claim | final accuracy: interquartile mean (95%) | first check, points (95%) | supported? |"
    yield "|---|---|---|---|"
    for key, claim in claims.items():
        cells = _row(results[key]) if key in results else ["not measured yet", "", ""]
        yield f"| ({key}) {claim.sentence} | {' | '.join(cells)} |"


def _row(result: Result) -> list[str]:
    ends = [
        f"{arm['name']} {percent_interval(interquartile_mean(scores_RK(result, key, moments(result, key)[-1])))}"
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
    by, first = ("quarter of the budget", "first quarter") if result.get("budget") else ("round", "round 1")
    yield (
        f"| arm | accuracy by {by}, % | final (95%) | final, each seed | {_hops(result)} hops | judge | "
        f"reward, {first} to last | solvable | question pool | sampled tokens | minutes |"
    )
    yield "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for key, arm in result["arms"].items():
        yield f"| {arm['name']} | {' | '.join(arm_cells(result, key))} |"


def arm_cells(result: Result, arm: str) -> list[str]:
    """Return an arm's cells."""
    shown = moments(result, arm)
    last, by_moment = shown[-1], [interquartile_mean(scores_RK(result, arm, at)) for at in shown]
    tokens, seconds = (mean_sum(result, arm, key) for key in ("sampled_tokens", "seconds"))
    return [
        " ".join(f"{100 * interval.value:.0f}" for interval in by_moment),
        percent_interval(by_moment[-1]),
        ", ".join(percent(value) for value in values(result, arm, last, "accuracy")),
        "/".join(f"{100 * value:.0f}" for value in scores_RK(result, arm, last).mean(axis=0)),
        percent(mean_of(values(result, arm, last, "grm"))),
        " to ".join(percent(mean_of(values(result, arm, at, "reward"))) for at in (shown[1], last)),
        percent(mean_of(values(result, arm, last, "solvable"))),
        f"{mean_of(values(result, arm, last, 'pool_questions')):.0f}",
        f"{tokens / 1e6:.2f}M",
        f"{seconds / 60:.0f}",
    ]


def _hops(result: Result) -> str:
    first = next(iter(next(iter(result["arms"].values()))["runs"].values()))
    return "/".join(first["rounds"][0]["by_hops"])


def made_how(result: Result) -> str:
    """Return the stamp: what trained the runs, on what, and on how many questions they were evaluated."""
    runs = [run for arm in result["arms"].values() for run in arm["runs"].values()]
    commits = sorted({made["commit"][:8] for run in runs for made in run["made"]})
    torch = sorted({run["software"].get("torch", "unknown") for run in runs})
    stamps = [result, *(made for run in runs for made in run["made"])]
    dirty = ", uncommitted changes" if any(stamp.get("dirty") for stamp in stamps) else ""
    settings = "; ".join(f"{arm['name']}: {arm['recipe']}, {' '.join(arm['set'])}" for arm in result["arms"].values())
    budget = f"Read at {result['budget'] / 1e6:g} million sampled tokens. " if result.get("budget") else ""
    return (
        f"{runs[0]['rounds'][0]['n_eval']} held-out questions per seed and round. {budget}{settings}. Runs trained at "
        f"commit {', '.join(commits)}, torch {', '.join(torch)}; collected at {result['commit'][:8]}{dirty} on "
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


def docs_block(results: Mapping[str, Result], claims: Mapping[str, Claim], name: str = "claims") -> list[str]:
    """Return the summary, the plot and one section per claim. name: of the plot's file."""
    lines = ["## The answers", "", *summary_table(results, claims), ""]
    lines += [f"![Accuracy by round, a panel per claim](../img/{name}.png)", ""] if results else []
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
    parser.add_argument("results", type=Path, nargs="*")
    parser.add_argument("--world", type=int, choices=FILES, default=1, help="of the lab")
    args = parser.parse_args()
    claims, name = read_claims(FILES[args.world]), NAMES[args.world]
    results = read_results(args.results, claims)
    page = ROOT / "docs" / "results" / f"{name}.md"
    write_text(page, between(page.read_text(encoding="utf-8"), docs_block(results, claims, name)))
    if results:
        draw(results, ROOT / "docs" / "img" / f"{name}.png")


if __name__ == "__main__":
    main()
