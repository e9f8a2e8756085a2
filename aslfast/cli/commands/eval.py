"""The options of `aslfast eval`."""

from __future__ import annotations

from typing import Annotated

import typer

from aslfast.cli.options import DataOption, IndexOption, Json, Limit, Prompts, Quiet, Seed, Threads, print_json


# one parameter an option: typer reads the signature
def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="A", help="A run (its newest policy adapter and its settings), a model folder, or lab."),
    ],
    data: DataOption,
    index: IndexOption,
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="A second one, for a paired comparison on the same questions.")
    ] = None,
    limit: Limit = None,
    prompts: Prompts = None,
    seed: Seed = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate the policy on questions with known answers: exact match, sub-EM, cover-EM, F1, by hops.

    With B, evaluate both on the same questions with the same seeds, and test their difference.
    """
    from aslfast.cli import eval
    from aslfast.cli.rollout import Overrides, QuestionSource

    targets = [target] if other is None else [target, other]
    overrides = Overrides(prompts=prompts, seed=seed, threads=threads)
    result = eval.evaluate(targets, QuestionSource(data, index, limit), overrides, quiet)
    print_json(result) if as_json else eval.print_evaluation(result)
