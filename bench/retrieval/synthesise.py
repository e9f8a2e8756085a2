"""Synthesise a corpus: N passages with the statistics of a real one, to measure an index at any size.

    python -m bench.retrieval.synthesise --passages corpus.parquet --n 5000000 --out synthetic

A passage takes its title and half its text from one real passage and the other half from a second, which is near the
first three times out of four (mostly the same article). So words, their frequencies and co-occurrences are real, and
document frequencies grow in proportion. Real text also keeps adding new words (Heaps' law): two made-up words a
passage, drawn from an unbounded power law, are put between the pieces. Passage i depends only on the seed and i: a
shorter corpus is the start of a longer one.

Against the shared 152,067 passages, as many made from them (English analyzer): 73.1 terms a passage (real: 71.1), 58.3
distinct ones (55.4), 16.7% of those more than once (17.0%); mean score of the best, 3rd, 10th, 100th and 1000th hit of
1,000 Natural Questions 10.1, 9.0, 7.8, 5.7, 3.7 (real: 10.6, 9.2, 8.0, 5.8, 3.8).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 50_000
FILE = 1_000_000  # passages; a multiple of BATCH
PIECES = 4  # of a passage's text; two neighbouring ones make a half
NEAR = 3  # the largest distance of a second passage that is near the first
NEAR_FRACTION = 0.75
IDS = 10**9
LETTERS = np.frombuffer(b"bcdfghjklmnpqrst", np.uint8)
VOWELS = np.frombuffer(b"aiou", np.uint8)
ENDS = np.frombuffer(b"bfkpvxzj", np.uint8)  # no suffix that a stemmer removes ends in these
SYLLABLES = 4
WORD_BYTES = 2 * SYLLABLES + 2  # with the last letter and a space
WORDS = 64**SYLLABLES * len(ENDS)
# P(rank > r) = (r / FIRST_RANK) ** -TAIL: distinct words grow as draws ** (1 / (1 + TAIL)). Fitted so that every
# doubling of the corpus adds 5.6 terms for every ten, as with the shared 152,067 passages, up to 21 million.
TAIL = 0.54
FIRST_RANK = 16_000


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of S passages: title s and its PIECES pieces in order, for every s; last, room for a made-up word."""

    texts: pa.LargeStringArray

    @property
    def n_sources(self) -> int:
        return (len(self.texts) - 1) // (PIECES + 1)


def cut(contents: Iterable[str]) -> Pieces:
    """Cut every passage of at least PIECES words; each piece ends in a space, a title in a newline."""
    texts: list[str] = []
    for content in contents:
        title, _, text = content.rpartition("\n")
        words = text.split()
        if len(words) < PIECES:
            continue
        bounds = [len(words) * i // PIECES for i in range(PIECES + 1)]
        texts.append(title + "\n" if title else "")
        texts += [" ".join(words[bounds[i] : bounds[i + 1]]) + " " for i in range(PIECES)]
    return Pieces(pa.array([*texts, " " * WORD_BYTES], pa.large_string()))


def made_up(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return the words of these ranks, [n, WORD_BYTES]: syllables, a last letter, a space."""
    word_NB = np.full((len(ranks), WORD_BYTES), ord(" "), np.uint8)
    word_NB[:, -2] = ENDS[ranks % len(ENDS)]
    rest = ranks // len(ENDS)
    for i in range(SYLLABLES):
        word_NB[:, 2 * i] = LETTERS[rest % 16]
        word_NB[:, 2 * i + 1] = VOWELS[rest // 16 % 4]
        rest = rest // 64
    return word_NB


def choose(pieces: Pieces, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
    """Choose the pieces of n passages, [n, 7]: title, two of a, a made-up word, two of b, a made-up word."""
    first = rng.integers(pieces.n_sources, size=n)
    near = (first + rng.integers(-NEAR, NEAR + 1, size=n)) % pieces.n_sources
    second = np.where(rng.random(n) < NEAR_FRACTION, near, rng.integers(pieces.n_sources, size=n))
    start_a, start_b = rng.integers(PIECES - 1, size=(2, n))
    a, b = first * (PIECES + 1), second * (PIECES + 1)
    word = np.full(n, len(pieces.texts) - 1)
    return np.stack([a, a + 1 + start_a, a + 2 + start_a, word, b + 1 + start_b, b + 2 + start_b, word], axis=1)


def make_batch(pieces: Pieces, seed: int, first: int, n: int) -> pa.RecordBatch:
    """Return passages `first` to `first + n`; `first` is a multiple of BATCH."""
    rng = np.random.default_rng([seed, first // BATCH])
    chosen = choose(pieces, rng, BATCH)
    ranks = (FIRST_RANK * (1 - rng.random(2 * BATCH)) ** (-1 / TAIL) % WORDS).astype(np.int64)
    words_NB = made_up(ranks)[: 2 * n]
    flat = chosen[:n].ravel()
    taken = pieces.texts.take(pa.array(flat))  # contiguous: passages are longer slices of the same bytes
    offsets = np.frombuffer(taken.buffers()[1], np.int64)[: len(flat) + 1]
    data = np.frombuffer(taken.buffers()[2], np.uint8, offsets[-1]).copy()
    places = offsets[:-1][flat == len(pieces.texts) - 1]
    data[places[:, None] + np.arange(WORD_BYTES)] = words_NB
    bounds = pa.py_buffer(np.ascontiguousarray(offsets[:: chosen.shape[1]]))
    contents = pa.Array.from_buffers(pa.large_string(), n, [None, bounds, pa.py_buffer(data)])
    return pa.record_batch([make_ids(first, n), contents], names=["id", "contents"])


def make_ids(first: int, n: int) -> pa.LargeStringArray:
    """Return ids: y followed by nine digits."""
    numbers = np.arange(first, first + n)
    id_NB = np.full((n, 10), ord("y"), np.uint8)
    for i in range(9):
        id_NB[:, 9 - i] = ord("0") + numbers // 10**i % 10
    bounds = pa.py_buffer(np.arange(0, 10 * n + 1, 10, dtype=np.int64))
    return pa.Array.from_buffers(pa.large_string(), n, [None, bounds, pa.py_buffer(id_NB.ravel())])


def synthesise(pieces: Pieces, n: int, seed: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield n passages in batches of BATCH. Raises ValueError."""
    if not 0 < n < IDS:
        raise ValueError(f"n is {n}; ids have nine digits: ask for 1 to {IDS - 1} passages")
    for first in range(0, n, BATCH):
        yield make_batch(pieces, seed, first, min(BATCH, n - first))


def read_pieces(files: Iterable[Path]) -> Pieces:
    return cut(text for file in files for text in pq.read_table(file, columns=["contents"])["contents"].to_pylist())


def write_files(pieces: Pieces, n: int, seed: int, folder: Path) -> float:
    """Write `folder`/synthetic-000.parquet and so on; return the seconds of synthesis, without writing."""
    folder.mkdir(parents=True)
    busy, batches, writer = 0.0, synthesise(pieces, n, seed), None
    for i in range(0, n, BATCH):
        start = time.perf_counter()
        batch = next(batches)
        busy += time.perf_counter() - start
        if i % FILE == 0:
            if writer:
                writer.close()
            name = folder / f"synthetic-{i // FILE:03}.parquet"
            writer = pq.ParquetWriter(name, batch.schema, compression="zstd", use_dictionary=False)
        writer.write_batch(batch)
    writer.close()
    return busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=Path, nargs="+", required=True, help="Parquet: id, contents")
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="new folder for files of a million passages")
    args = parser.parse_args()
    pieces = read_pieces(args.passages)
    start = time.perf_counter()
    busy = write_files(pieces, args.n, args.seed, args.out)
    whole = time.perf_counter() - start
    print(f"{args.n:,} passages: {args.n / busy:,.0f} a second to make, {args.n / whole:,.0f} with writing {args.out}")


if __name__ == "__main__":
    main()
