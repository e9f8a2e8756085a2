"""The engines of bench_bm25.py: aslfast and its peers, each built and searched in the fastest documented way.

All read the same Parquet files (id, contents), rank by BM25 with k1 = 0.9 and b = 0.4, leave out the same 33 English
stop words and stem. Differences are stated in each `note`. Where a peer can be measured in several ways, the one that
favours it is taken: bm25s and tantivy return passage numbers, not ids; PISA is called below pyterrier's data
frames, which cost it 1.5 ms a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow.parquet as pq

K1, B = 0.9, 0.4
STOP_WORDS = ["a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no"]
STOP_WORDS += ["not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this"]
STOP_WORDS += ["to", "was", "will", "with"]
BATCH_ROWS = 10_000


class Engine(Protocol):
    """An engine; `search` returns passage ids, or passage numbers where `gives_ids` is false."""

    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]  # imported before a clock starts
    gives_ids: ClassVar[bool]
    note: ClassVar[str]

    def build(self, files: list[Path], folder: Path, threads: int) -> None: ...
    def open(self, folder: Path) -> None: ...
    def search(self, queries: list[str], k: int, threads: int) -> Any: ...
    def searched(self, file: Path) -> bool:
        """Return whether searching needs this file of the index; it needs no texts and no temporary files."""
        ...


def read_rows(files: list[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=["id", "contents"]):
            yield from zip(batch["id"].to_pylist(), batch["contents"].to_pylist(), strict=True)


class Ours:
    package = "aslfast"
    modules = ("aslfast.index",)
    gives_ids = True
    note = "standard tokenizer, Porter stemmer; its build keeps the texts too, compressed"

    def build(self, files: list[Path], folder: Path, threads: int) -> None:
        from aslfast.index.bm25 import BM25Index

        BM25Index.build(files, folder, k1=K1, b=B, analyzer="english", threads=threads)

    def open(self, folder: Path) -> None:
        from aslfast.index.bm25 import BM25Index

        self.index = BM25Index.open(folder)

    def search(self, queries: list[str], k: int, threads: int) -> list[list[str]]:
        return self.index.search(queries, k, threads=threads).ids

    def searched(self, file: Path) -> bool:
        return file.name not in ("texts.bin", "blocks.bin", "contents.bin")


class Bm25s:
    package = "bm25s"
    modules = ("bm25s", "Stemmer")
    gives_ids = False
    note = "regular expression \\w+, PyStemmer's Porter; numba backend; tokenises on one thread; the index in memory"

    def _tokenizer(self) -> Any:
        import Stemmer
        from bm25s.tokenization import Tokenizer

        # without PyStemmer's own cache, which would slow it down: the tokenizer keeps one too
        stemmer = Stemmer.Stemmer("porter", 0)
        return Tokenizer(splitter=r"(?u)\b\w+\b", stopwords=STOP_WORDS, stemmer=stemmer.stemWord)

    def build(self, files: list[Path], folder: Path, threads: int) -> None:
        import bm25s

        tokenizer = self._tokenizer()
        n = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        texts = (text for _, text in read_rows(files))
        tokens = tokenizer.tokenize(texts, update_vocab=True, length=n, return_as="tuple", show_progress=False)
        index = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba", csc_backend="auto")
        index.index(tokens, show_progress=False)
        index.save(folder, show_progress=False)
        tokenizer.save_vocab(folder)

    def open(self, folder: Path) -> None:
        import bm25s

        self.index = bm25s.BM25.load(folder, load_vocab=True)
        self.index.backend = "numba"
        self.tokenizer = self._tokenizer()
        self.tokenizer.load_vocab(folder)

    def search(self, queries: list[str], k: int, threads: int) -> Any:
        tokens = self.tokenizer.tokenize(queries, update_vocab=False, return_as="ids", show_progress=False)
        return self.index.retrieve(tokens, k=k, n_threads=threads, show_progress=False).documents

    def searched(self, file: Path) -> bool:
        return True


class Tantivy:
    package = "tantivy"
    modules = ("tantivy",)
    gives_ids = False
    note = (
        "its simple tokenizer, Snowball English stemmer; k1 = 1.2, b = 0.75 are fixed in it; no positions, no texts "
        "stored; a query is an OR of terms (its query parser takes punctuation for operators); a thread pool"
    )
    executors: ClassVar[dict[int, ThreadPoolExecutor]] = {}

    def _analyzer(self) -> Any:
        from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

        builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(255)).filter(Filter.lowercase())
        return builder.filter(Filter.custom_stopword(STOP_WORDS)).filter(Filter.stemmer("english")).build()

    def build(self, files: list[Path], folder: Path, threads: int) -> None:
        import tantivy

        schema = tantivy.SchemaBuilder().add_unsigned_field("number", fast=True)
        schema = schema.add_text_field("contents", tokenizer_name="english33", index_option="freq").build()
        folder.mkdir(parents=True)
        index = tantivy.Index(schema, path=str(folder))
        index.register_tokenizer("english33", self._analyzer())
        writer = index.writer(heap_size=1_000_000_000, num_threads=threads)
        for number, (_, text) in enumerate(read_rows(files)):
            document = tantivy.Document()
            document.add_unsigned("number", number)
            document.add_text("contents", text)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()

    def open(self, folder: Path) -> None:
        import tantivy

        self.index = tantivy.Index.open(str(folder))
        self.analyzer = self._analyzer()
        self.searcher = self.index.searcher()

    def search(self, queries: list[str], k: int, threads: int) -> list[list[int]]:
        if threads == 1:
            return [self._search_one(query, k) for query in queries]
        executor = self.executors.setdefault(threads, ThreadPoolExecutor(threads))
        return list(executor.map(self._search_one, queries, [k] * len(queries)))

    def _search_one(self, query: str, k: int) -> list[int]:
        from tantivy import Occur, Query

        schema, should = self.index.schema, Occur.Should
        terms = self.analyzer.analyze(query)
        clauses = [(should, Query.term_query(schema, "contents", term, "freq")) for term in terms]
        hits = self.searcher.search(Query.boolean_query(clauses), k, count=False).hits
        return self.searcher.fast_field_values("number", [address for _, address in hits])

    def searched(self, file: Path) -> bool:
        return not file.name.endswith((".lock", ".store"))


class Pisa:
    """PISA. `algorithm` is one of its own; `quantized`: scores stored in 8 bits instead of computed, not exact."""

    package = "pyterrier-pisa"
    modules = ("pyterrier_pisa",)
    gives_ids = True
    note = "its English tokenizer, Porter2; stop words are indexed and left out of queries; block_simdbp, blocks of 64"

    def __init__(self, algorithm: str = "block_max_maxscore", quantized: bool = False) -> None:
        self.algorithm, self.quantized = algorithm, quantized

    def _retriever(self, folder: Path, threads: int) -> Any:
        return self._index(folder, threads).bm25(k1=K1, b=B, precompute_impact=self.quantized)

    def _index(self, folder: Path, threads: int) -> Any:
        from pyterrier_pisa import PisaIndex

        return PisaIndex(str(folder), text_field="text", stemmer="porter2", stops="lucene", threads=threads)

    def build(self, files: list[Path], folder: Path, threads: int) -> None:
        self._index(folder, threads).index({"docno": id_, "text": text} for id_, text in read_rows(files))
        self._retriever(folder, threads)  # compresses the index and computes the blocks' maxima

    def open(self, folder: Path) -> None:
        self.retriever = self._retriever(folder, 1)

    def search(self, queries: list[str], k: int, threads: int) -> list[list[str]]:
        """Do what PisaRetrieve.transform does, without its data frames."""
        from pyterrier_pisa import _pisathon

        size = len(queries) * k
        rows, ranks = np.empty(size, np.int32), np.empty(size, np.int32)
        ids, scores = np.empty(size, object), np.empty(size, np.float32)
        found = _pisathon.retrieve(
            self.retriever._ctxt,
            self.algorithm,
            list(enumerate(queries)),
            k=k,
            threads=threads,
            query_weighted=0,
            pretokenised=False,
            result_qidxs=rows,
            result_docnos=ids,
            result_ranks=ranks,
            result_scores=scores,
        )
        results: list[list[str]] = [[] for _ in queries]
        for row, id_ in zip(rows[:found].tolist(), ids[:found].tolist(), strict=True):
            results[row].append(id_)
        return results

    def searched(self, file: Path) -> bool:
        wanted = rf"bm25\..*\.q{int(self.quantized)}\.bmw.*|fwd\.doclex|fwd\.termlex"
        return re.fullmatch(wanted, file.name) is not None


ENGINES = {
    "ours": (Ours, {}),
    "bm25s": (Bm25s, {}),
    "tantivy": (Tantivy, {}),
    "pisa": (Pisa, {}),
    "pisa-maxscore": (Pisa, {"algorithm": "maxscore"}),
    "pisa-8bit": (Pisa, {"algorithm": "maxscore", "quantized": True}),
}


def make_engine(name: str) -> Engine:
    kind, options = ENGINES[name]
    return kind(**options)


def engine_version(name: str) -> str:
    package = ENGINES[name][0].package
    if package == "aslfast":
        from aslfast import __version__

        return __version__
    return version(package)
