"""The topics that ship with aslfast, and a user's own."""

import pytest

from aslfast.errors import UserError
from aslfast.trainer import datasets


def test_general_topics(tmp_path):
    topics = datasets.read_topics("general")
    assert len(topics) == len(set(topics)) == 73
    (tmp_path / "mine.txt").write_text("Rivers\n\n  Old towns \n")
    assert datasets.read_topics(str(tmp_path / "mine.txt")) == ["Rivers", "Old towns"]
    with pytest.raises(UserError, match="no such topics file"):
        datasets.read_topics("generl")
