"""Topic files, and the topics that ship with aslfast."""

import pytest

from aslfast.data.topics import read_topics
from aslfast.errors import UserError


def test_general_topics():
    topics = read_topics("general")
    assert len(topics) == len(set(topics)) == 73


def test_a_file_has_a_topic_a_line(tmp_path):
    (tmp_path / "mine.txt").write_text("Rivers\n\n  Old towns \n")
    assert read_topics(str(tmp_path / "mine.txt")) == ["Rivers", "Old towns"]


def test_missing_topics_are_an_error(tmp_path):
    with pytest.raises(UserError, match="generl: no such topics file; give a text file"):
        read_topics("generl")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty.txt: no topics in it; give a text file"):
        read_topics(str(tmp_path / "empty.txt"))
