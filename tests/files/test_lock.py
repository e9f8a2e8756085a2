"""The lock of a file: one holder at a time over all processes, and none after its end, however it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from aslfast.errors import UserError
from aslfast.files.lock import hold
from tests.support.faults.forks import ends_well, in_child


def take(file: Path) -> None:
    with hold(file, "somebody else has it"):
        pass


def is_free(file: Path) -> bool:
    """Return whether another process can take the lock."""
    return ends_well(in_child(lambda: take(file)))


def test_one_process_holds_it_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with hold(file, "taken"):
        assert not is_free(file)
        with pytest.raises(UserError, match="somebody else has it"):  # this process cannot take it twice either
            take(file)
        assert not is_free(file)
    assert is_free(file) and file.exists()


def test_an_error_in_the_block_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "x.lock", "taken"):
        raise KeyError
    assert is_free(tmp_path / "x.lock")


def test_a_killed_holder_releases_it(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    reading, writing = os.pipe()

    def child() -> None:
        with hold(file, "taken"):
            os.write(writing, b"held")
            time.sleep(60)

    holder = in_child(child)
    assert os.read(reading, 4) == b"held" and not is_free(file)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert is_free(file)


def test_a_child_forked_meanwhile_does_not_keep_it(tmp_path: Path) -> None:
    with hold(tmp_path / "x.lock", "taken"):
        child = in_child(lambda: time.sleep(60))
    assert is_free(tmp_path / "x.lock")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "missing" / "x.lock")
