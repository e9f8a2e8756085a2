"""Files of JSON lines: appended whole, rewritten only where they differ, read up to the last complete line."""

import json

import pytest

from aslfast.files.jsonl import append_line, read_lines, rewrite_lines
from tests.support.faults.small_disk import small_disk


def test_lines_are_whole_on_a_full_disk(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_line(file, {"step": 1})
    before = file.read_bytes()
    with small_disk(len(before) + 5), pytest.raises(OSError):
        append_line(file, {"step": 2, "what": "a line longer than five bytes"})
    assert file.read_bytes() == before
    append_line(file, {"step": 2})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]


def test_rewriting_makes_exactly_these_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "share": 0.1}, {"step": 2, "share": None}]
    for line in lines:
        append_line(file, line)
    whole, kept = file.read_bytes(), file.stat().st_ino
    rewrite_lines(file, lines)
    assert file.stat().st_ino == kept, "what is right is left alone"
    for damaged in (whole[:-3], whole + b'{"step": 3}\n', b"", whole.splitlines(True)[0]):
        file.write_bytes(damaged)
        rewrite_lines(file, lines)
        assert file.read_bytes() == whole
    rewrite_lines(file, [])
    assert not any(tmp_path.iterdir())


def test_no_line_at_all_is_written_for_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(tmp_path / "metrics.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_reading_stops_before_a_line_that_is_still_being_written(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes('{"step": 1, "name": "Ås"}\n\n{"step": 2}\n{"ste'.encode())
    assert read_lines(file) == [{"step": 1, "name": "Ås"}, {"step": 2}]
    file.write_bytes(b'{"step": 3}')
    assert read_lines(file) == []


def test_reading_what_is_no_json_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nstep 2\n')
    with pytest.raises(ValueError, match="Expecting value"):
        read_lines(tmp_path / "metrics.jsonl")
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "missing.jsonl")
