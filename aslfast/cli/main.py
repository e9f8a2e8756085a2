"""The command line: the app, its commands by name, and how errors are reported.

A command declares its options in cli/commands/ and does its work in the file of its name in cli/, which it imports when
it runs: help and light commands load no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from aslfast import __version__
from aslfast.cli.commands.doctor import doctor
from aslfast.cli.commands.eval import evaluate
from aslfast.cli.commands.export import export, model
from aslfast.cli.commands.index import index_app
from aslfast.cli.commands.lab import lab_app
from aslfast.cli.commands.plan import plan
from aslfast.cli.commands.recipes import recipes
from aslfast.cli.commands.report import report, trajectories, watch
from aslfast.cli.commands.rollout import rollout
from aslfast.cli.commands.sft import demos, sft
from aslfast.cli.commands.train import train
from aslfast.cli.options import print_any_text
from aslfast.errors import UserError, missing_part

# Before torch is loaded: its threads sleep while they wait. Spinning ones halve the speed of a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# typer brings a click of its own, or uses the installed one
UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])


class OneLineErrors(TyperGroup):
    """A group whose commands end bad input in one line on stderr and exit code 2, never in a traceback."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the arguments in front of the command; raise typer.Exit where they are wrong."""
        with _one_line_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raise typer.Exit for the errors that a user can fix."""
        with _one_line_errors():
            return super().invoke(ctx)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    print_any_text()
    try:
        yield
    except UserError as error:
        message, code = str(error), 2
    except UsageError as error:
        if "NoArgs" in type(error).__name__:  # its message is the help of a group
            raise
        message, code = _usage(error), 2
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        message, code = missing_part(error), 2
    except OSError as error:
        what = f"{error.filename or 'writing'}: {error.strerror or error}"
        message, code = f"{what}; check the path and the free space", 2
    except KeyboardInterrupt as stop:
        message, code = str(stop) or "stopped", 130
    else:
        return
    print(f"aslfast: error: {' '.join(message.split())}" if code == 2 else f"aslfast: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _usage(error: Any) -> str:
    """Return what is wrong with the command's arguments, and where its options are listed."""
    command = error.ctx.command_path if error.ctx else "aslfast"
    return f"{command}: {error.format_message().strip().rstrip('.')}; see {command} --help"


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


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


for _name, _command, _example in (
    ("train", train, "aslfast train --recipe tiny --out runs/first --set policy.steps=8"),
    ("recipes", recipes, "aslfast recipes tiny"),
    ("plan", plan, "aslfast plan --recipe asl-qwen2.5-7b --gpu 80GB --set sampler.kind=sglang"),
    ("report", report, "aslfast report runs/first --html"),
    ("watch", watch, "aslfast watch runs/first"),
    ("trajectories", trajectories, 'aslfast trajectories runs/first --role policy --round 3 --where "reward<0.5"'),
    (
        "eval", evaluate,
        "aslfast eval runs/first --data runs/first/lab/heldout.parquet --index runs/first/lab/heldout.idx",
    ),
    (
        "rollout", rollout,
        "aslfast rollout --model path/to/model --index wiki.idx --data q.parquet --out t.parquet --limit 64",
    ),
    ("demos", demos, "aslfast demos --model path/to/model --data q.parquet --index wiki.idx --out demos.parquet"),
    ("sft", sft, "aslfast sft --model path/to/model --data demos.parquet --out adapters/policy"),
    ("export", export, "aslfast export runs/first --role policy --out my-model --merge"),
    ("model", model, "aslfast model smollm2-135m --out smollm2"),
    ("doctor", doctor, "aslfast doctor --sampler sglang"),
):  # fmt: skip
    app.command(_name, epilog=f"Example: {_example}")(_command)
app.add_typer(index_app, name="index")
app.add_typer(lab_app, name="lab")


def main() -> None:
    """Run the command line."""
    app(prog_name="aslfast")
