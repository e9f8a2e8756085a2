"""The traffic of the benchmark of groups, and its sides: every one samples what was recorded."""

import pandas as pd
import pytest
import torch

from aslfast.data.corpus import Passage
from aslfast.files.shipped import LAB_BASE
from aslfast.index.bm25 import BM25Index
from aslfast.sampler.local.sampler import LocalSampler
from bench.groups.sides import endless_copy, generate, load_model
from bench.groups.traffic import open_recordings, play, sampled_tokens

CALL = '{"name": "search", "arguments": {"query": "red river"}}'


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return load_model(endless_copy(LAB_BASE, tmp_path_factory.mktemp("base") / "base"), 4)


@pytest.fixture(scope="module")
def recordings(opened, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    BM25Index.build([Passage("1", "the red river"), Passage("2", "a green town")], folder / "index", threads=1)
    rows = [
        {"role": role, "question": question, "conversation": said, "token_ids": [5, 6, 7, 8, 9, 10, 11, 12],
         "loss_mask": [0, 0, 0, 1, 1, 0, 1, 1]}
        for role, question, said in (
            ("grm", "which?", CALL), ("policy", "no call", "no call"), ("policy", "which town?", CALL),
            ("policy", "which town?", CALL), ("policy", "a town green", CALL),
        )
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "demos.parquet")
    return open_recordings(folder / "demos.parquet", folder / "index", opened[1], top_k=1)


def test_a_conversation_is_the_prompt_and_what_its_queries_find(recordings, opened):
    first, second = recordings.conversations(2, n_searches=2, most_new=9)
    assert first.turns[:2] == second.turns[:2] and len(first.turns) == len(second.turns) == 3
    contexts, lengths = zip(*((turn.token_ids, turn.n_new) for turn in first.turns), strict=True)
    assert contexts[0] == (5, 6, 7) and lengths == (2, 2, 2)
    for before, after, found in zip(contexts, contexts[1:], ("the red river", "a green town"), strict=False):
        assert after[: len(before)] == before
        assert found in opened[1].decode(after[len(before) :])
    assert [turn.n_new for turn in recordings.conversations(1, 1, most_new=1)[0].turns] == [1, 1]


def test_the_sides_sample_what_was_recorded(recordings, opened):
    conversations = recordings.conversations(2, n_searches=1, most_new=9)
    samples = play(LocalSampler(*opened, max_running_requests=6), conversations, group_size=3)
    assert sum(len(sample.token_ids) for session in samples for sample in session) == 24
    assert sampled_tokens(conversations, group_size=3) == 24
    torch.manual_seed(0)
    generate(opened[0], 1.0, conversations, 3)  # checks its own lengths
