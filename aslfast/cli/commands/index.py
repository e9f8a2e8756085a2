"""The options of the commands of `aslfast index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aslfast.cli.options import Json, Quiet, Threads, print_json
from aslfast.errors import UserError
from aslfast.limits import MOST_HITS, MOST_K1, MOST_MEMORY_MB

if TYPE_CHECKING:
    from aslfast.cli.index import Outcome

index_app = typer.Typer(no_args_is_help=True, help="Build, search, change and serve BM25 indexes of passages.")

Corpus = Annotated[
    list[Path],
    typer.Argument(metavar="CORPUS...", help="Passages with id and contents, as .jsonl or .parquet; or DPR's .tsv."),
]
Folder = Annotated[Path, typer.Argument(metavar="IDX", help="Folder of an index.")]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=16,
        max=MOST_MEMORY_MB,
        help="Memory for building, in MB; a larger corpus uses temporary disk space.",
    ),
]


# one parameter an option: typer reads the signature
@index_app.command("build", epilog="Example: aslfast index build passages.parquet more.jsonl --out wiki.idx")
def build(
    corpus: Corpus,
    out: Annotated[Path, typer.Option("--out", metavar="IDX", help="New folder for the index.")],
    analyzer: Annotated[
        str, typer.Option("--analyzer", help="How texts become terms: english, simple, cjk or whitespace.")
    ] = "english",
    k1: Annotated[
        float, typer.Option("--k1", min=0.0, max=MOST_K1, help="BM25's k1: how slowly repeated terms saturate.")
    ] = 0.9,
    b: Annotated[
        float, typer.Option("--b", min=0.0, max=1.0, help="BM25's b: how strongly scores are normalised by length.")
    ] = 0.4,
    threads: Threads = None,
    memory_mb: Memory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Index passages for BM25 search."""
    from aslfast.cli import index as cli_index
    from aslfast.index.options import Similarity

    similarity, effort = Similarity(analyzer, k1, b), cli_index.effort(threads, memory_mb)
    _show(cli_index.build(corpus, out, similarity, effort, quiet), as_json)


@index_app.command("search", epilog='Example: aslfast index search wiki.idx "who wrote the first novel" -k 3')
def search(
    index: Folder,
    query: Annotated[str, typer.Argument(help="Query text.")],
    k: Annotated[int, typer.Option("-k", min=1, max=MOST_HITS, help="How many passages to show.")] = 3,
    scores: Annotated[
        str, typer.Option("--scores", help="exact, or lucene: passage lengths rounded as in Lucene.")
    ] = "exact",
    as_json: Json = False,
) -> None:
    """Show the best passages for a query."""
    from aslfast.cli import index as cli_index

    _show(cli_index.search(index, query, k, scores), as_json)


@index_app.command("info", epilog="Example: aslfast index info wiki.idx")
def info(index: Folder, as_json: Json = False) -> None:
    """Show what an index holds and how large it is."""
    from aslfast.cli import index as cli_index

    _show(cli_index.info(index), as_json)


@index_app.command("verify", epilog="Example: aslfast index verify wiki.idx")
def verify(index: Folder, as_json: Json = False) -> None:
    """Check every byte of an index."""
    from aslfast.cli import index as cli_index

    _show(cli_index.verify(index), as_json)


@index_app.command("add", epilog="Example: aslfast index add wiki.idx news.jsonl")
def add(
    index: Folder,
    corpus: Corpus,
    threads: Threads = None,
    memory_mb: Memory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add passages with new ids to an index: all of them or, after an error, none."""
    from aslfast.cli import index as cli_index

    _show(cli_index.add(index, corpus, cli_index.effort(threads, memory_mb), quiet), as_json)


@index_app.command("delete", epilog="Example: aslfast index delete wiki.idx --ids-from withdrawn.txt")
def delete(
    index: Folder,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of passages.")] = None,
    ids_from: Annotated[
        Path | None, typer.Option("--ids-from", metavar="FILE", help="File with more ids, one per line.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete passages from an index: all of them or, after an error, none."""
    from aslfast.cli import index as cli_index

    if not ids and ids_from is None:
        raise UserError("delete: no id was given; name at least one, or a file of ids with --ids-from")
    _show(cli_index.delete(index, ids or [], ids_from), as_json)


@index_app.command("merge", epilog="Example: aslfast index merge wiki.idx")
def merge(index: Folder, threads: Threads = None, as_json: Json = False) -> None:
    """Merge all segments into one: the fastest to search, and without deleted passages."""
    from aslfast.cli import index as cli_index

    _show(cli_index.merge(index, threads or 0), as_json)


@index_app.command("serve", epilog="Example: aslfast index serve wiki.idx --port 8000")
def serve_index(
    index: Folder,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 chooses a free one.")
    ] = 8000,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on. The default accepts connections from this machine only."),
    ] = "127.0.0.1",
    threads: Threads = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Serve an index with the protocol of Search-R1's retrieval server (POST /retrieve), until stopped."""
    from aslfast.retrieval.server import ServerOptions, serve

    serve(index, ServerOptions(host, port, threads or 0, access_log, as_json))


def _show(outcome: Outcome, as_json: bool) -> None:
    print_json(outcome.fields()) if as_json else print(outcome.text())
