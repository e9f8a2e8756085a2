"""The questions of a corpus in train, dev and test by the title of their passage, so that no title crosses.

    python -m bench.real_run.split ../shared/data runs/real

writes the splits that a real run of that data has, to evaluate adapters of one without it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aslfast.data.corpus import read_corpus
from aslfast.data.topics import read_topics
from aslfast.errors import UserError
from aslfast.files.atomic import atomic_file, write_text
from aslfast.prompts.templates import one_line
from bench.real_run.settings import SIZES

SPLITS = ("train", "dev", "test")


def write_splits(passages: Path, questions: Path, least: Mapping[str, int], folder: Path) -> dict[str, int]:
    """Write train, dev and test.parquet and topics.txt, the titles of train; return the questions by split.

    Rows stand in the order of the hash of their id, so that the first n of a file are a sample of it. Raise UserError.
    """
    table = pq.read_table(questions)
    ids, golds = (table.column(name).to_pylist() for name in ("id", "gold_passage"))
    titles = _titles(passages, golds)
    split_of = split_titles([titles[gold] for gold in golds], least)
    order = sorted(range(len(ids)), key=lambda i: (_hash(ids[i]), ids[i]))
    for split in SPLITS:
        rows = [i for i in order if split_of[titles[golds[i]]] == split]
        if not rows:
            raise UserError(f"{questions}: no question is left for {split}; give questions on more titles")
        with atomic_file(folder / f"{split}.parquet") as partial:
            pq.write_table(table.take(pa.array(rows)), partial)
    plain = (one_line(title.replace("_", " ")) for title, split in split_of.items() if split == "train")
    write_text(folder / "topics.txt", "".join(f"{title}\n" for title in sorted(set(plain))))
    read_topics(str(folder / "topics.txt"))
    return dict(Counter(split_of[titles[gold]] for gold in golds))


def split_titles(titles: Sequence[str], least: Mapping[str, int]) -> dict[str, str]:
    """Return the split of each title, given the title of every question.

    Titles in the order of their SHA-256: to test until that has its least number of questions, then to dev, then to
    train. More titles at the end change nothing but the last one of a split.
    """
    questions = Counter(titles)
    filled, split_of = dict.fromkeys(least, 0), {}
    for title in sorted(questions, key=lambda title: (_hash(title), title)):
        split = next((name for name in least if filled[name] < least[name]), "train")
        split_of[title] = split
        if split in filled:
            filled[split] += questions[title]
    return split_of


def _titles(passages: Path, golds: Sequence[str]) -> dict[str, str]:
    """Return the titles of these passages. Raise UserError where one is missing."""
    wanted = set(golds)
    found = {passage.id: passage.title for passage in read_corpus(passages) if passage.id in wanted}
    if missing := wanted - found.keys():
        raise UserError(f"{passages}: no passage {min(missing)!r}, which a question names; give the whole corpus")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with passages.parquet and questions.parquet")
    parser.add_argument("out", type=Path, help="folder for train, dev and test.parquet and topics.txt")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        counts = write_splits(
            args.data / "passages.parquet", args.data / "questions.parquet", SIZES["full"].least, args.out
        )
    except (OSError, UserError) as error:
        sys.exit(f"split: {error}")
    print(", ".join(f"{name} {counts[name]:,}" for name in SPLITS))


if __name__ == "__main__":
    main()
