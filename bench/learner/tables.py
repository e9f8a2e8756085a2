"""What bench_learner.py, bench_round.py and bench_soak.py measured, as Markdown tables, a sentence under each."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.shared.results import Result

SECONDS = {"processor": "processor time", "wall": "wall time"}
SOAKED = {"memory_mib": "anonymous memory, MiB", "files": "open files, maximum", "threads": "threads, maximum"}


def stamped(result: Result) -> str:
    """Return where, when and by which commit: the end of a table's sentence."""
    dirty = ", uncommitted changes" if result["dirty"] else ""
    versions = f"torch {result['versions']['torch']}, " if "versions" in result else ""
    return (
        f"{versions}{result['device']}, {result['cores']} cores, load {result['load_average']:.1f}, commit "
        f"{result['commit'][:8]}{dirty}, {result['date'][:10]}"
    )


# --- a step ------------------------------------------------------------------------------------------------------


def step_lines(result: Result) -> Iterator[str]:
    """Yield the table of a step's variants; the last column compares with the padded one."""
    padded = next(row for row in result["rows"] if row["side"] == "padded")
    yield (
        "| variant | loss tokens/s | all tokens/s | of the matmul rate | peak MiB | forward, head, backward, "
        "optimizer, rest (s) | speedup over padded |"
    )
    yield "|---|---:|---:|---:|---:|---|---:|"
    for row in result["rows"]:
        parts = ", ".join(f"{value:.3g}" for value in row["parts_s"].values())
        times = row["loss_tokens_per_s"] / padded["loss_tokens_per_s"]
        yield (
            f"| {row['side']} | {row['loss_tokens_per_s']:,.0f} | {row['all_tokens_per_s']:,.0f} "
            f"| {100 * row['matmul_utilization']:.0f}% | {row['peak_mib']:,.0f} | {parts} | {times:.2f} |"
        )


def step_sentence(result: Result) -> str:
    """Return what the step was, what sharing and packing gain, and how much the variants' gradients differ."""
    difference = max(result["largest_gradient_difference"].values())
    rate = {row["side"]: row["loss_tokens_per_s"] for row in result["rows"]}
    shared, packed = rate["packed, shared"] / rate["packed"], rate["packed"] / rate["padded by length"]
    seconds = SECONDS["processor" if result["shape"] == "tiny" else "wall"]
    return (
        f"Sharing makes a packed step {shared:.2f} times as fast; packing alone is {packed:.2f} times as fast as "
        f"padding rows sorted by length. Shape {result['shape']}, LoRA rank {result['rank']}, attention "
        f"{result['attention']}, activation checkpointing {result['activation_checkpointing']}, micro-batches of "
        f"{result['micro_batch_tokens']:,} tokens, padded ones of {result['padded_rows']} rows. One step over "
        f"{result['trajectories']} trajectories in the lengths of a real run: {result['all_tokens']:,} tokens, "
        f"{result['loss_tokens']:,} of them loss tokens. Medians of {result['n']} alternating runs, {seconds}. "
        f"Gradients differ by at most {difference:g} of the largest element. Matrix product: "
        f"{result['matmul_flops_per_s'] / 1e9:,.0f} GFLOP/s. {stamped(result)}."
    )


# --- a round -----------------------------------------------------------------------------------------------------


def shown_round(result: Result) -> Mapping[str, Any]:
    """Return the round that the tables show."""
    return next(one for one in result["rounds"] if one["round"] == result["shown"])


def round_lines(result: Result) -> Iterator[str]:
    """Yield a table of where each phase's time went, and one of what the phase did in it."""
    one, clock = shown_round(result), clock_of(result)
    parts = list(one["phases"][0]["parts"])
    yield f"| phase | wall time, s | processor time, s | of the round | {' | '.join(parts)} |"
    yield f"|---|---:|---:|---:|{'---:|' * len(parts)}"
    for row in [*one["phases"], whole_round(one)]:
        cells = [f"{part[clock]:.3g} ({percent_of(part[clock], row[clock])})" for part in row["parts"].values()]
        yield (
            f"| {row['phase']} | {row['wall_s']:.1f} | {row['processor_s']:.1f} "
            f"| {percent_of(row[clock], one[clock])} | {' | '.join(cells)} |"
        )
    yield ""
    yield from _work_lines(one["phases"], clock)


def _work_lines(rows: Sequence[Mapping[str, Any]], clock: str) -> Iterator[str]:
    learn_parts = list(rows[0]["learn_parts"])
    yield (
        "| phase | steps | trajectories (the phase's own) | sampled tokens | sampled tokens/s "
        f"| loss tokens | loss tokens/s | of the matmul rate | {', '.join(learn_parts)} (s) |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for row in rows:
        parts = ", ".join(f"{part[clock]:.3g}" for part in row["learn_parts"].values())
        yield (
            f"| {row['phase']} | {row['steps']} | {row['rollouts']:,} ({row['trajectories']:,}) "
            f"| {row['sampled_tokens']:,} | {number(row['sampled_tokens_per_s'])} | {row['loss_tokens']:,} "
            f"| {number(row['loss_tokens_per_s'])} | {percent(row['matmul_utilization'])} | {parts} |"
        )


def whole_round(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return the phases of a round, added up."""
    phases, clocks = one["phases"], ("wall_s", "processor_s")
    parts = {
        part: {clock: sum(phase["parts"][part][clock] for phase in phases) for clock in clocks}
        for part in phases[0]["parts"]
    }
    return {"phase": "**round**", **{clock: one[clock] for clock in clocks}, "parts": parts}


def clock_of(result: Result) -> str:
    """Return the key of the seconds that parts and rates are of."""
    return f"{result['rates_of']}_s"


def round_sentence(result: Result) -> str:
    """Return which round the tables show, and how it was measured."""
    took, one = result["seconds"], shown_round(result)
    overlap_s = sum(row["tool_overlapped_s"] for row in one["phases"])
    overlapped = f" Searches took {overlap_s:.1f} s more in threads during the rollout." if overlap_s else ""
    unseen = ", which leaves out waiting, such as for the disk in commit" * (result["rates_of"] == "processor")
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    return (
        f"Recipe {result['recipe']}{_settings(result)}, {result['sampler']} sampler, {threads}, seed {result['seed']}: "
        f"round {result['shown']}, whose time is the median of {result['n']} after a first one (p20 to p80: "
        f"{took['p20']:.0f} to {took['p80']:.0f} s). Parts, percentages and rates are of "
        f"{SECONDS[result['rates_of']]}{unseen}.{overlapped} Peak memory of the round beyond what was allocated before "
        f"it: {one['peak_mib']:,.0f} MiB. {stamped(result)}."
    )


# --- a soak ------------------------------------------------------------------------------------------------------


def soak_lines(result: Result) -> Iterator[str]:
    """Yield the table of the soak's limits."""
    yield "| | second quarter | last quarter | limit | within limit |"
    yield "|---|---:|---:|---:|---|"
    for name, found in result["limits"].items():
        what = SOAKED.get(name, f"{name.removesuffix('_us_per_token')}: microseconds per token")
        values = " | ".join(f"{found[key]:,g}" for key in ("before", "after", "limit"))
        yield f"| {what} | {values} | {'yes' if found['kept'] else '**no**'} |"


def soak_sentence(result: Result) -> str:
    """Return how long the soak was, and how it was measured."""
    return (
        f"Recipe {result['recipe']}{_settings(result)}: {result['steps']} steps in {result['rounds']} rounds of one "
        f"process, {result['updates']} of which updated an adapter, in {result['wall_s'] / 60:.0f} minutes. Medians, "
        f"except the two maxima. A least-squares line through the memory after the first quarter rises by "
        f"{memory_slope(result):.2g} MiB in 100 steps; the run's question pool grows too. Tokens are those that "
        f"were sampled, prefilled or went through the learner. {stamped(result)}."
    )


def memory_slope(result: Result) -> float:
    """Return how fast memory rises after the first quarter, in MiB in 100 steps."""
    column, rows = result["columns"].index("rss_mib"), result["rows"]
    quarter = len(rows) // 4
    return 100 * statistics.linear_regression(range(quarter, len(rows)), [r[column] for r in rows[quarter:]]).slope


def _settings(result: Result) -> str:
    return "".join(f" --set {setting}" for setting in result["set"])


def percent_of(part: float, whole: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * part / whole:.1f}%"


def number(value: float | None) -> str:
    """Return a cell of a whole number; "-" for None."""
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return a cell of a percentage; "-" for None."""
    return "-" if value is None else f"{100 * value:.0f}%"
