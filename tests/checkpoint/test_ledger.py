"""The ledger: its commits are whole, in order and checked."""

import sqlite3

import pytest

from aslfast.checkpoint.commits import Commit, CommittedState, Provenance
from aslfast.checkpoint.ledger import Ledger
from aslfast.errors import UserError
from aslfast.files.checksum import StoredFile

COMMITS = [
    Commit("run_started", {"round": 0}, {"steps/a": StoredFile(3, "x")}, provenance=Provenance({"model.path": "m"})),
    Commit("step", {"pool": {"ä": {"id": "q"}}}, {"steps/b": StoredFile(4, "y")}, ("steps/a",), {"m.jsonl": {"s": 1}}),
    Commit("step", {"step": 2}, {}, (), {"m.jsonl": {"s": 2, "share": 0.1, "one": 1.0, "none": None}}),
]


@pytest.fixture
def filled(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for commit in COMMITS:
        ledger.append(commit)
    ledger.close()
    return tmp_path / "ledger.sqlite"


def read(file):
    ledger = Ledger(file)
    try:
        return ledger.read()
    finally:
        ledger.close()


def test_commits_read_back_and_add_up(filled):
    assert read(filled) == COMMITS
    whole = CommittedState.of(COMMITS)
    assert whole.files == {"steps/b": StoredFile(4, "y")} and whole.removable == ()
    assert whole.lines == {"m.jsonl": [{"s": 1}, COMMITS[2].lines["m.jsonl"]]}
    assert whole.provenance == Provenance({"model.path": "m"})
    assert CommittedState.of(COMMITS[:2]).removable == ("steps/a",)


def test_the_last_commits_can_be_replaced(filled):
    ledger = Ledger(filled)
    ledger.read()
    assert ledger.truncate(1) == COMMITS[:1]
    ledger.append(COMMITS[2])
    ledger.close()
    assert read(filled) == [COMMITS[0], COMMITS[2]]
    ledger = Ledger(filled)
    ledger.read()
    assert ledger.truncate(0) == []
    ledger.append(COMMITS[1])
    ledger.close()
    assert read(filled) == [COMMITS[1]]


def test_damage_to_a_ledger_is_detected(filled):
    """Truncated or changed at any byte: it reads as it was, or raises a UserError that names it."""
    whole = filled.read_bytes()
    found = {"read": 0, "refused": 0}
    truncated = [whole[:n] for n in range(1, len(whole), 61)]
    changed = [
        whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :]
        for n in [*range(110), *range(4090, 4130), *range(110, len(whole), 29)]
    ]
    for data in truncated + changed:
        filled.write_bytes(data)
        try:
            assert read(filled) == COMMITS
            found["read"] += 1
        except UserError as error:
            assert str(error).startswith(f"{filled}: ")
            found["refused"] += 1
    assert found["refused"] > 100 and found["read"] > 20  # most of a page is unused


def test_a_ledger_of_another_version_is_refused(filled):
    with sqlite3.connect(filled) as store_:
        store_.execute("PRAGMA application_id=9")
    with pytest.raises(UserError, match=r"ledger.sqlite: not a ledger that this aslfast reads; use the version that"):
        read(filled)


def test_nan_is_not_committed(filled):
    ledger = Ledger(filled)
    ledger.read()
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(Commit("step", lines={"m.jsonl": {"kl": float("nan")}}))
    ledger.close()
    assert read(filled) == COMMITS
