"""The options of `aslfast rollout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aslfast.cli.options import (
    SAMPLING,
    DataOption,
    IndexOption,
    Json,
    Limit,
    Prompts,
    Quiet,
    Seed,
    Threads,
    print_json,
)
from aslfast.limits import MOST_TEMPERATURE, MOST_TOKENS, MOST_TOP_K, MOST_TURNS


def _sampling(name: str, least: float, most: float, text: str) -> Any:
    """Return the option of a number that bounds sampling."""
    return typer.Option(name, min=least, max=most, help=text, rich_help_panel=SAMPLING)


# one parameter an option: typer reads the signature
def rollout(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL|RUN",
            help="Folder of a Hugging Face causal LM with a chat template; or a run; or lab for the tiny base.",
        ),
    ],
    index: IndexOption,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="T.parquet", help="New file for the trajectories.")],
    limit: Limit = None,
    role: Annotated[
        str,
        typer.Option(
            "--role",
            help="policy answers the questions, grm judges their first answers, generator uses them as topics; a role "
            "of a run's own gets them in its prompt.",
        ),
    ] = "policy",
    samples: Annotated[int, typer.Option("--samples", min=1, max=10_000, help="Trajectories per question.")] = 1,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="Write one trajectory per question: best (highest F1) or correct (exact match only).",
            show_default="all",
        ),
    ] = None,
    prompts: Prompts = None,
    temperature: Annotated[
        float | None, _sampling("--temperature", 0.0, MOST_TEMPERATURE, "Sampling temperature; 0 is greedy.")
    ] = None,
    max_turns: Annotated[int | None, _sampling("--max-turns", 1, MOST_TURNS, "Maximum turns per trajectory.")] = None,
    max_new_tokens: Annotated[
        int | None, _sampling("--max-new-tokens", 1, MOST_TOKENS, "Maximum sampled tokens per turn.")
    ] = None,
    max_context: Annotated[
        int | None, _sampling("--max-context", 2, MOST_TOKENS, "Maximum tokens per trajectory, prompt included.")
    ] = None,
    top_k: Annotated[int | None, _sampling("--top-k", 1, MOST_TOP_K, "Passages returned per query.")] = None,
    seed: Seed = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Roll out one role over a file of questions, several turns each, and write the trajectories."""
    from aslfast.cli import rollout

    rollout.check_new_file(out)
    choice = rollout.SampleChoice(samples, keep)
    choice.check(role)
    source = rollout.QuestionSource(data, index, limit)
    overrides = rollout.Overrides(
        prompts=prompts, seed=seed, threads=threads, temperature=temperature, max_turns=max_turns,
        max_new_tokens=max_new_tokens, max_context=max_context, top_k=top_k,
    )  # fmt: skip
    session, questions = rollout.open_all(model, role, source, overrides)
    trajectories, summary = rollout.roll_out(session, role, questions, out, choice, quiet)
    print_json(summary) if as_json else rollout.print_rollout(trajectories, summary)
