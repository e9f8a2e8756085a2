"""The command line. Commands parse and print; the work is elsewhere, and what is slow to import is imported in them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aslfast import __version__
from aslfast.cli.index_commands import index_app
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
from aslfast.errors import UserError

# Before torch is loaded: its threads sleep while they wait. Spinning ones halve the speed of a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class OneLineErrors(TyperGroup):
    """Bad input ends in one line on stderr and exit code 2, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            message, code = str(error), 2
        except BrokenPipeError:
            raise
        except OSError as error:
            message, code = (
                f"{error.filename or 'writing'}: {error.strerror or error}; check the path and the free space",
                2,
            )
        except KeyboardInterrupt as stop:
            message, code = str(stop) or "stopped", 130
        print(f"aslfast: error: {' '.join(message.split())}" if code == 2 else f"aslfast: {message}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
lab_app = typer.Typer(no_args_is_help=True, help="The lab: train and measure the tiny base that ships with aslfast.")
app.add_typer(index_app, name="index")
app.add_typer(lab_app, name="lab")


def _version(asked: bool) -> None:
    if asked:
        print(f"aslfast {__version__}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search agents that teach themselves: Agentic Self-Learning (arXiv 2510.14253) on one shared base model.

    Start with: [bold]aslfast train --recipe tiny --out runs/first[/bold] (minutes on two CPU cores, no GPU).
    """


@app.command(epilog="Example: aslfast train --recipe tiny --out runs/first --set policy.steps=8")
def train(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME|FILE", help="A shipped recipe by its name, or a .toml file.", show_default="tiny"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="New folder for the run.")] = None,
    seed: Seed = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a run that ended early, from its last step."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and write nothing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the three roles, round after round, into a new folder RUN, and print what they gained."""
    from aslfast.cli.train import print_plan, resume_run, train_run
    from aslfast.config.load import load_recipe

    if resume is not None:
        given = {"--recipe": recipe, "--out": out, "--seed": seed, "--set": set_, "--dry-run": dry_run or None}
        if other := next((name for name, value in given.items() if value is not None), None):
            raise UserError(
                f"train: {other} with --resume; leave it out (the run's own config.toml holds) or start anew"
            )
        resume_run(resume, quiet, as_json)
        return
    config = load_recipe(recipe or "tiny", set_ or (), seed)
    if dry_run:
        print_plan(config, as_json)
    elif out is None:
        raise UserError("train: --out is missing; name a new folder for the run, for example --out runs/first")
    else:
        train_run(config, out, quiet, as_json)


@app.command(epilog="Example: aslfast plan --recipe asl-qwen2.5-7b --gpu 80GB --set sampler.kind=sglang")
def plan(
    gpu: Annotated[
        str,
        typer.Option("--gpu", metavar="SIZE|CARD", help="Its memory, such as 80GB; or h100, h200, a100, l40s, 4090."),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="A shipped recipe by its name, or a .toml file.")
    ] = "tiny",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL|NAME",
            help="In place of the recipe's: a model folder (its config.json is enough), or a known name: qwen2.5-7b.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Divide a GPU's memory among a run's parts, and print the settings that follow; exit code 2 if it cannot fit."""
    from aslfast.cli import plan
    from aslfast.config.load import load_recipe

    plan.show(load_recipe(recipe, set_ or ()), model, gpu, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    as_json: Json = False,
) -> None:
    """Print the table of a run again and draw its curves.png again."""
    from aslfast.cli.train import print_report

    print_report(run, as_json)


@app.command(
    "eval",
    epilog="Example: aslfast eval runs/first --data runs/first/lab/heldout.parquet --index runs/first/lab/heldout.idx",
)
def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="A", help="A run (its newest policy adapter and its settings), a model folder, or lab."),
    ],
    data: DataOption,
    index: IndexOption,
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another, for a paired comparison on the same questions.")
    ] = None,
    limit: Limit = None,
    prompts: Prompts = None,
    seed: Seed = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the policy on questions with known answers: exact match, sub-EM, cover-EM, F1, by hops.

    With B both are measured on the same questions with the same seeds, and their difference is tested.
    """
    from aslfast.cli import eval

    settings = {"prompts": prompts, "seed": seed, "threads": threads}
    targets = [target] if other is None else [target, other]
    result = eval.evaluate(targets, data, index, limit, settings, quiet)
    print_json(result) if as_json else eval.print_evaluation(result)


@app.command(
    epilog="Example: aslfast rollout --model path/to/model --index wiki.idx --data q.parquet --out t.parquet --limit 64"
)
def rollout(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL|RUN",
            help="Any Hugging Face causal LM with a chat template, by its folder; or a run; or lab.",
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
            help="policy answers the questions, grm judges their first answers, generator takes them as topics.",
        ),
    ] = "policy",
    prompts: Prompts = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="Of sampling; 0 is greedy.", rich_help_panel=SAMPLING)
    ] = None,
    max_turns: Annotated[
        int | None, typer.Option("--max-turns", min=1, help="Most turns of a trajectory.", rich_help_panel=SAMPLING)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of a turn.", rich_help_panel=SAMPLING)
    ] = None,
    max_context: Annotated[
        int | None, typer.Option("--max-context", min=2, help="Most tokens of a trajectory.", rich_help_panel=SAMPLING)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Passages that a search returns.", rich_help_panel=SAMPLING)
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let one role work through questions, several turns each, and write its trajectories."""
    from aslfast.cli import rollout

    settings = {
        "prompts": prompts, "seed": seed, "temperature": temperature, "max_turns": max_turns,
        "max_new_tokens": max_new_tokens, "max_context": max_context, "top_k": top_k, "threads": threads,
    }  # fmt: skip
    rollout.check_new_file(out)
    opened, questions = rollout.open_all(model, rollout.known_role(role), data, index, limit, settings)
    trajectories, summary = rollout.roll_out(opened, role, questions, out, quiet)
    print_json(summary) if as_json else rollout.print_rollout(trajectories, summary)


@app.command(epilog="Example: aslfast doctor --sampler sglang")
def doctor(
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", metavar="local|sglang", help="Also prove this sampler against the trainer."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="With --sampler: a model folder, or lab.")
    ] = "lab",
    as_json: Json = False,
) -> None:
    """Check this machine before a run: versions, devices, kernels, index; and a sampler, if asked.

    Exit code 1 if a check failed; each such line names its remedy.
    """
    from aslfast.cli import doctor

    if not doctor.doctor(sampler, model, as_json):
        raise typer.Exit(1)


@lab_app.command("train-base", epilog="Example: aslfast lab train-base --out my-base --seed 1")
def lab_train_base(
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="New folder for the model.")],
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of everything random; the same seed gives the same model.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Train the tiny base from scratch, as the one that ships was trained."""
    from aslfast.cli.lab import train_base

    train_base(out, seed, quiet)
    print(f"{out}: measure it with: aslfast lab measure {out}")


@lab_app.command("measure", epilog="Example: aslfast lab measure lab --worlds 3")
def lab_measure(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, or lab for the base that ships.")
    ] = "lab",
    worlds: Annotated[int, typer.Option("--worlds", min=1, help="How many fresh worlds to measure on.")] = 3,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a base at the three roles on fresh worlds, before any reinforcement learning."""
    from aslfast.cli.lab import measure, print_measured

    measured = measure(model, worlds, quiet)
    print_json(measured) if as_json else print_measured(measured)


def main() -> None:
    app()
