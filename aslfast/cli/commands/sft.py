"""`aslfast demos` and `aslfast sft`: demonstrations, and an adapter that learns from them or from any token streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import DataOption, IndexOption, Json, Limit, Prompts, Quiet, Seed, Threads, print_json
from aslfast.errors import UserError
from aslfast.limits import MOST_TOKENS

TRAINING = "Training"
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="Model folder, or lab for the tiny base.")
]


# one parameter an option: typer reads the signature
def demos(
    model: Annotated[
        str,
        typer.Option("--model", metavar="MODEL|RUN", help="Model to write for: its tokenizer and prompts are used."),
    ],
    data: DataOption,
    index: IndexOption,
    out: Annotated[Path, typer.Option("--out", metavar="D.parquet|R.jsonl", help="New file for the demonstrations.")],
    role: Annotated[
        str,
        typer.Option(
            "--role", help="Role to demonstrate: policy, generator, grm or all; or reading: practice without a search."
        ),
    ] = "all",
    limit: Limit = None,
    prompts: Prompts = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, max=1000, help="Passages per search.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write demonstrations of the roles from labelled questions and an index, as token streams for `aslfast sft`.

    policy: a search, the answer. grm: the same, then a verdict on a right and on a plausible wrong answer. generator: a
    search about a topic, then the question about what it found. reading: each passage once, then the questions about
    it, as conversations (JSON lines).
    """
    from aslfast.cli.adapters import demos
    from aslfast.cli.rollout import Overrides, QuestionSource

    overrides = Overrides(prompts=prompts, seed=seed, top_k=top_k)
    summary = demos.make_demos(model, QuestionSource(data, index, limit), out, role, overrides, quiet)
    print_json(summary) if as_json else demos.print_demos(summary)


# one parameter an option: typer reads the signature
def sft(
    model: ModelOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="T.parquet|C.jsonl",
            help='Trajectories from rollout, demos or a run; or conversations, one {"messages": [...]} per line.',
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="ADAPTER", help="New folder for the adapter.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="ADAPTER", help="Continue one that was interrupted.")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--role", help="Role to train: policy, generator, grm or one of your own.", show_default="policy"),
    ] = None,
    init_adapter: Annotated[
        Path | None,
        typer.Option("--init-adapter", metavar="ADAPTER", help="PEFT folder to start from.", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", min=0.0, max=10.0, help="Peak learning rate.", rich_help_panel=TRAINING, show_default="2e-4"
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="After the warm-up: linear (down to 0) or constant.",
            rich_help_panel=TRAINING,
            show_default="linear",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", min=1, max=10_000, help="Passes over the data.", rich_help_panel=TRAINING, show_default="2"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            max=100_000,
            help="Rows per optimizer step.",
            rich_help_panel=TRAINING,
            show_default="16",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, max=4096, help="LoRA rank.", rich_help_panel=TRAINING, show_default="32"),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", min=0.0, max=1e6, help="LoRA alpha.", rich_help_panel=TRAINING, show_default="64"),
    ] = None,
    dev_fraction: Annotated[
        float | None,
        typer.Option(
            "--dev-fraction",
            min=0.0,
            max=1.0,
            help="Fraction of the prompts held out for evaluation.",
            rich_help_panel=TRAINING,
            show_default="0.1",
        ),
    ] = None,
    micro_batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--micro-batch-tokens",
            min=1,
            max=MOST_TOKENS,
            help="Maximum tokens per forward pass; bounds memory.",
            rich_help_panel=TRAINING,
            show_default="4096",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="float32, bfloat16 or float16, of the base.",
            rich_help_panel=TRAINING,
            show_default="float32",
        ),
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train one role's adapter by supervised fine-tuning, with the loss on the assistant's tokens alone.

    The result is a PEFT folder: the start of a run (roles.policy.init_adapter), or input for `aslfast export`.
    """
    from aslfast.cli.adapters.sft import print_sft, run_sft

    needed = {"model": model, "data": data, "out": out}
    given = {
        "role": role, "init_adapter": init_adapter, "lr": lr, "schedule": schedule, "epochs": epochs,
        "batch_size": batch_size, "rank": rank, "alpha": alpha, "dev_fraction": dev_fraction,
        "micro_batch_tokens": micro_batch_tokens, "dtype": dtype, "seed": seed, "threads": threads,
    }  # fmt: skip
    options = _checked({**needed, **given}, resume)
    target = resume or out
    assert target is not None  # else it is refused
    summary = run_sft(target, options, quiet)
    print_json(summary) if as_json else print_sft(summary)


def _checked(options: Mapping[str, object], resume: Path | None) -> dict[str, object] | None:
    """Return the options that are given, without --out; None for a resumption. Raise UserError."""
    given = {name: str(v) if isinstance(v, Path) else v for name, v in options.items() if v is not None}
    if resume is not None:
        if other := next(iter(given), None):
            what = f"--{other.replace('_', '-')} does not go with --resume"
            raise UserError(f"sft: {what}; leave it out (the settings of {resume}/sft.json hold), or start a new one")
        return None
    if missing := next((name for name in ("model", "data", "out") if name not in given), None):
        raise UserError(f"sft: --{missing} is missing; name a model, its data and a new folder, or use --resume")
    if "init_adapter" in given and given.keys() & {"rank", "alpha"}:
        raise UserError("sft: --rank and --alpha are those of --init-adapter; leave them out")
    return {name: value for name, value in given.items() if name != "out"}
