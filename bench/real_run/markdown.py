"""The tables of a real run, as a terminal shows them and docs/real.md has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from aslfast.cli.progress import clock, printable

Figures: TypeAlias = Mapping[str, Any]
NAMES = {
    "untouched": "the model as it comes", "cold-start": "after the cold start",
    "rule": "after the loop with rule reward", "asl": "after the ASL rounds",
}  # fmt: skip
SHOWN = ("untouched", "cold-start", "rule", "asl")
MOST_CHARS = 700  # of a turn that is shown


def tables(result: Figures) -> Iterator[str]:
    """Yield the lines of all tables."""
    for split in reversed(list(result["evaluations"])):
        yield from evaluation_table(result, split)
        yield ""
        yield from judge_table(result, split)
        yield ""
        yield from difference_table(result, split)
        yield ""
        yield ceiling_line(result, split)
        yield ""
    yield from loop_table(result)
    yield ""
    yield from stage_table(result)
    yield ""
    yield made_how(result)


def evaluation_table(result: Figures, split: str) -> Iterator[str]:
    """Yield a row for each evaluation of the policy."""
    yield from _head(
        f"policy, {split}", "n", "exact match (95%)", "F1 (95%)", "well formed", "searches", "tokens",
        "its queries find the gold passage",
    )  # fmt: skip
    for name, of in result["evaluations"][split].items():
        policy = of["policy"]
        cells = [
            NAMES[name], policy["n"], _percent(policy["em"]), _percent(policy["f1"]), _percent(policy["well_formed"]),
            f"{policy['searches']:.2f}", f"{policy['sampled_tokens']:.0f}", _percent(policy["gold_found"]),
        ]  # fmt: skip
        yield _row(cells)


def judge_table(result: Figures, split: str) -> Iterator[str]:
    """Yield a row for each evaluation of the judge: on right and wrong answers, and on the policy's own."""
    yield from _head(
        f"judge, {split}", "n", "balanced accuracy (95%)", "right called correct", "wrong called wrong", "unreadable",
        "passes of the policy's answers", "truly right",
    )  # fmt: skip
    for name, of in result["evaluations"][split].items():
        if judge := of.get("judge"):
            shares = [judge[key] for key in ("right_called_correct", "wrong_called_wrong", "unreadable")]
            passes = [of["probe"][key] for key in ("judge_pass_rate", "judge_probe_accuracy")]
            cells = [f"{100 * share:.1f}%" for share in (*shares, *passes)]
            yield _row([NAMES[name], judge["n"], _percent(judge["balanced_accuracy"]), *cells])


def difference_table(result: Figures, split: str) -> Iterator[str]:
    """Yield a row for each pair of evaluations on the same questions."""
    yield from _head(f"difference in points, {split}", "exact match (95%)", "p", "F1 (95%)", "p")
    for pair, by_metric in result["differences"][split].items():
        after, before = pair.split(" - ")
        cells = [_points(by_metric[name]) for name in ("em", "f1")]
        p = [f"{by_metric[name]['p']:.4f}" for name in ("em", "f1")]
        yield _row([f"{NAMES[after]}, less {NAMES[before]}", cells[0], p[0], cells[1], p[1]])


def ceiling_line(result: Figures, split: str) -> str:
    """Return how often search finds the gold passage without a policy."""
    found = result["ceilings"][split]
    told = ", ".join(f"by the {name} {_percent(share)}" for name, share in found.items())
    return f"Search finds the gold passage of a question of {split} {told}."


def loop_table(result: Figures) -> Iterator[str]:
    """Yield a row for each round of the loops: rewards beside the truth, and the alarms."""
    yield from _head(
        "loop, round", "reward: generator", "judge", "policy", "policy's exact match", "judge passes", "alarms"
    )
    for name in ("rule", "asl"):
        steps, rounds = (result["curves"][name][key] for key in ("metrics", "rounds"))
        for line in rounds:
            own = [_mean_reward(steps, line["round"], role) for role in ("generator", "grm", "policy")]
            rates = [line.get(key) for key in ("policy_accuracy", "judge_pass_rate")]
            shares = ["-" if rate is None else f"{100 * rate:.1f}%" for rate in rates]
            alarms = ", ".join(alarm["name"] for alarm in line.get("alarms", ())) or "-"
            yield _row([f"{name} {line['round']}", *own, *shares, alarms])


def stage_table(result: Figures) -> Iterator[str]:
    """Yield a row for each stage: its time, how often it was started, its peak memory."""
    yield from _head("stage", "time", "starts", "peak resident memory")
    for name, record in result["stages"].items():
        yield _row([name, clock(record["seconds"]), record["attempts"], f"{record['peak_bytes'] / 1e9:.2f} GB"])
    total = sum(record["seconds"] for record in result["stages"].values())
    yield _row(["all", clock(total), "", f"{max(r['peak_bytes'] for r in result['stages'].values()) / 1e9:.2f} GB"])


def made_how(result: Figures) -> str:
    """Return the stamp in a sentence."""
    made, settings = result["made"], result["settings"]
    commits = ", ".join(dict.fromkeys(one["commit"][:8] for one in made))
    dirty = " with uncommitted changes" if any(one["dirty"] for one in made) else ""
    touched = len(result["test_touched"])
    return (
        f"Commit {commits}{dirty}; {result['device']}, {result['cores']} cores, {settings['dtype']}, seed "
        f"{settings['seed']}, {result['date'][:10]}; started {len(made)} times; evaluations started on test: {touched}."
    )


def page_block(result: Figures) -> list[str]:
    """Return the part of docs/real.md that a result makes: tables, then the trajectories."""
    lines = [*tables(result), "", "### The same ten questions, before and after", ""]
    for example in result["examples"]:
        lines += [f"**{_inline(example['question'])}** Accepted: {_inline('; '.join(example['references']))}", ""]
        for name in SHOWN:
            played = example[name]
            lines += [f"{NAMES[name].capitalize()}: {played['stop']}{', right' if played['em'] else ''}", ""]
            lines += ["```text", *_turns(played["conversation"]), "```", ""]
    return lines[:-1]


def _turns(conversation: str) -> list[str]:
    """Return the turns after the prompt, each cut, without what would end the block or look like a link."""
    turns = conversation.split("=== model ===\n")[1:]
    parts = [part for turn in turns for part in turn.split("=== tool ===\n")]
    shown = [part.strip()[:MOST_CHARS] for part in parts]
    text = "\n---\n".join(printable(part) for part in shown)
    return text.replace("```", "'''").replace("](", "] (").splitlines()


def _inline(text: str) -> str:
    """Return a text that no Markdown reads as markup."""
    return "".join(c for c in printable(text) if c not in "`[]*_<>|\n\\")


def _mean_reward(steps: Sequence[Figures], number: int, role: str) -> str:
    own = [step["reward"] for step in steps if step["round"] == number and step["phase"] == role]
    return f"{sum(own) / len(own):.3f}" if own else "-"


def _percent(figure: Figures) -> str:
    return f"{100 * figure['value']:.1f}% ({100 * figure['low']:.1f}-{100 * figure['high']:.1f})"


def _points(figure: Figures) -> str:
    return f"{100 * figure['value']:+.1f} ({100 * figure['low']:+.1f} to {100 * figure['high']:+.1f})"


def _head(*names: str) -> Iterator[str]:
    yield _row(names)
    yield f"|---|{'---:|' * (len(names) - 1)}"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
