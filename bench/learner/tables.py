"""What bench_learner.py, bench_round.py and soak.py measured, as tables of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

SECONDS = {"processor": "the processor's seconds", "wall": "seconds on the wall"}
SOAKED = {"memory_mib": "anonymous memory, MiB", "files": "open files, at most", "threads": "threads, at most"}


def stamped(result: Result) -> str:
    """Where, when and by which commit: the end of a table's sentence."""
    dirty = ", tree not clean" if result["dirty"] else ""
    versions = f"torch {result['versions']['torch']}, " if "versions" in result else ""
    return (
        f"{versions}{result['device']}, {result['cores']} cores, load {result['load_average']:.1f}, commit "
        f"{result['commit'][:8]}{dirty}, {result['date'][:10]}"
    )


def step_lines(result: Result) -> Iterator[str]:
    """The sides of a learner's step; the last column against the padded one."""
    padded = next(row for row in result["rows"] if row["side"] == "padded")
    yield (
        "| step | live tokens/s | all tokens/s | share of a product's rate | peak MiB | forward, head, backward, "
        "optimizer, rest (s) | live tokens/s against padded |"
    )
    yield "|---|---:|---:|---:|---:|---|---:|"
    for row in result["rows"]:
        parts = ", ".join(f"{value:.3g}" for value in row["parts_s"].values())
        times = row["live_tokens_per_s"] / padded["live_tokens_per_s"]
        yield (
            f"| {row['side']} | {row['live_tokens_per_s']:,.0f} | {row['all_tokens_per_s']:,.0f} "
            f"| {100 * row['share_of_product_rate']:.0f}% | {row['peak_mib']:,.0f} | {parts} | {times:.2f} |"
        )


def step_sentence(result: Result) -> str:
    """What the step was, what sharing and packing gain, and how far apart the sides' gradients are."""
    apart = max(result["largest_gradient_difference"].values())
    pace = {row["side"]: row["live_tokens_per_s"] for row in result["rows"]}
    shared, packed = pace["packed, shared"] / pace["packed"], pace["packed"] / pace["padded by length"]
    seconds = SECONDS["processor" if result["shape"] == "tiny" else "wall"]
    return (
        f"Sharing makes a packed step {shared:.2f} times as fast; packing alone is {packed:.2f} times as fast as "
        f"padding rows sorted by length. Shape {result['shape']}, LoRA rank {result['rank']}, attention "
        f"{result['attention']}, checkpointing {result['checkpointing']}, micro-batches of "
        f"{result['micro_batch_tokens']:,} tokens, padded ones of {result['padded_rows']} rows. One step over "
        f"{result['trajectories']} trajectories in the lengths of a real run: {result['all_tokens']:,} tokens, "
        f"{result['live_tokens']:,} of them live. The median of {result['n']} in turns, of {seconds}. Gradients differ "
        f"by at most {apart:g} of the largest element. Product: {result['product_flops_per_s'] / 1e9:,.0f} GFLOP/s. "
        f"{stamped(result)}."
    )


# --- a round -----------------------------------------------------------------------------------------------------


def shown_round(result: Result) -> Mapping[str, Any]:
    return next(one for one in result["rounds"] if one["round"] == result["shown"])


def round_lines(result: Result) -> Iterator[str]:
    """A phase a row: where its time went, then what it did in it."""
    one, clock = shown_round(result), clock_of(result)
    parts = list(one["phases"][0]["parts"])
    yield f"| phase | on the wall, s | of the processor, s | of the round | {' | '.join(parts)} |"
    yield f"|---|---:|---:|---:|{'---:|' * len(parts)}"
    for row in [*one["phases"], whole_round(one)]:
        cells = [f"{part[clock]:.3g} ({share(part[clock], row[clock])})" for part in row["parts"].values()]
        yield (
            f"| {row['phase']} | {row['wall_s']:.1f} | {row['processor_s']:.1f} "
            f"| {share(row[clock], one[clock])} | {' | '.join(cells)} |"
        )
    yield ""
    yield from work_lines(one["phases"], clock)


def work_lines(rows: Sequence[Mapping[str, Any]], clock: str) -> Iterator[str]:
    learn_parts = list(rows[0]["learn_parts"])
    yield (
        "| phase | steps | trajectories (the phase's own) | sampled tokens | sampled tokens/s "
        f"| live tokens | live tokens/s | share of a product's rate | {', '.join(learn_parts)} (s) |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for row in rows:
        parts = ", ".join(f"{part[clock]:.3g}" for part in row["learn_parts"].values())
        yield (
            f"| {row['phase']} | {row['steps']} | {row['rollouts']:,} ({row['trajectories']:,}) "
            f"| {row['sampled_tokens']:,} | {number(row['sampled_tokens_per_s'])} | {row['live_tokens']:,} "
            f"| {number(row['live_tokens_per_s'])} | {percent(row['share_of_product_rate'])} | {parts} |"
        )


def whole_round(one: Mapping[str, Any]) -> dict[str, Any]:
    """The phases of a round, added up."""
    phases, clocks = one["phases"], ("wall_s", "processor_s")
    parts = {
        part: {clock: sum(phase["parts"][part][clock] for phase in phases) for clock in clocks}
        for part in phases[0]["parts"]
    }
    return {"phase": "**round**", **{clock: one[clock] for clock in clocks}, "parts": parts}


def clock_of(result: Result) -> str:
    """The seconds that the parts are told in, and that the rates are of."""
    return f"{result['rates_of']}_s"


def round_sentence(result: Result) -> str:
    settings = "".join(f" --set {setting}" for setting in result["set"])
    took, one = result["seconds"], shown_round(result)
    beside = sum(row["tool_overlapped_s"] for row in one["phases"])
    overlapped = f" Searches took {beside:.1f} s more in threads beside the rollout." if beside else ""
    unseen = ", where waiting, as commit does for the disk, is not seen" * (result["rates_of"] == "processor")
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    return (
        f"Recipe {result['recipe']}{settings}, {result['sampler']} sampler, {threads}, seed {result['seed']}: round "
        f"{result['shown']}, whose time is the median of {result['n']} after a first one (p20 to p80: "
        f"{took['p20']:.0f} to {took['p80']:.0f} s). Parts, shares and rates are of "
        f"{SECONDS[result['rates_of']]}{unseen}.{overlapped} Peak memory of the round beyond what stood before it: "
        f"{one['peak_mib']:,.0f} MiB. {stamped(result)}."
    )


# --- a soak ------------------------------------------------------------------------------------------------------


def soak_lines(result: Result) -> Iterator[str]:
    yield "| | second quarter | last quarter | may be at most | kept |"
    yield "|---|---:|---:|---:|---|"
    for name, found in result["limits"].items():
        what = SOAKED.get(name, f"{name.removesuffix('_us_a_token')}: microseconds a token")
        values = " | ".join(f"{found[key]:,g}" for key in ("before", "after", "most"))
        yield f"| {what} | {values} | {'yes' if found['kept'] else '**no**'} |"


def soak_sentence(result: Result) -> str:
    settings = "".join(f" --set {setting}" for setting in result["set"])
    return (
        f"Recipe {result['recipe']}{settings}: {result['steps']} steps in {result['rounds']} rounds of one process, "
        f"{result['updates']} of which moved an adapter, in {result['wall_s'] / 60:.0f} minutes. Medians, but for the "
        f"two that say at most. A least-squares line through the memory after the first quarter rises by "
        f"{memory_slope(result):.2g} MiB in 100 steps; the run's pool of questions grows too. A token: one that was "
        f"sampled, prefilled or went through the learner. {stamped(result)}."
    )


def memory_slope(result: Result) -> float:
    """MiB in 100 steps."""
    column, rows = result["columns"].index("rss_mib"), result["rows"]
    quarter = len(rows) // 4
    return 100 * statistics.linear_regression(range(quarter, len(rows)), [r[column] for r in rows[quarter:]]).slope


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
