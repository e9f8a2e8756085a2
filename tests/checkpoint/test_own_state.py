"""What a phase keeps becomes entries and comes back; an entry that did not change stays the same object."""

from dataclasses import dataclass, field

import pytest

from aslfast.checkpoint.own_state import kept, with_entries
from aslfast.core import Question
from aslfast.pool import Pool


@dataclass
class State:
    pool: Pool = field(default_factory=Pool)
    gains: tuple[float, ...] = ()
    count: int = 0


def state_of(*names, gains=()):
    state = State(gains=gains, count=len(names))
    for name in names:
        state.pool.add(Question(name, f"What is {name}?", (name, "x/y")), 1 / 3)
    return state


@pytest.mark.parametrize(
    "value", [state_of(), state_of("a", "b", gains=(0.1, 1 / 3)), 5, 0.1, {}, {"a": {"b/c": [1]}}, "é\n"]
)
def test_it_comes_back_as_it_was(value):
    assert kept(with_entries({}, "Mine", value), "Mine", value) == value


def test_nothing_kept_is_the_initial_value_read_back():
    assert kept({}, "Mine", state_of("a")) == state_of("a")


def test_only_what_changed_is_written_and_what_went_is_gone():
    before = with_entries(with_entries({}, "Its", 1), "Mine", state_of("a", "b"))
    after = with_entries(before, "Mine", state_of("b", "c"))
    changed = {key for key in before | after if before.get(key) is not after.get(key)}
    assert all('"items"' in key for key in changed) and len(changed) == 2  # a is gone, c is new; b and the count stay
    assert kept(after, "Mine", State()) == state_of("b", "c") and kept(after, "Its", 0) == 1


def test_emptied_dicts_stay_empty():
    entries = with_entries({}, "Mine", state_of("a"))
    assert kept(with_entries(entries, "Mine", State()), "Mine", state_of("z")) == State()


def test_what_json_cannot_hold_is_an_error():
    with pytest.raises(TypeError):
        with_entries({}, "Mine", {"a": object()})
