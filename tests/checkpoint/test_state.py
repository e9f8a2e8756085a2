"""The training state: what survives from one commit to the next, and what a commit writes of it."""

import json
from dataclasses import fields

from aslfast.checkpoint.commits import Commit, CommittedState
from aslfast.checkpoint.state import TrainState, changes, restore, snapshot, state_from_data
from aslfast.core import Attempt, Question, Task
from aslfast.rounds.context import RoundContext

# The parts of a RoundContext that are made from config.toml. What a later step reads must be in TrainState.
REBUILT = {"config", "learner", "rollout", "data", "phases", "checkpointer", "check_weight_sync", "observer"}


def question(number, *attempts):
    return Question(f"qg1-{number}", f"who is {number}?", ("Oslo",), number % 3, round=1, attempts=attempts)


def state_of(**values):
    """Return a state with a value in every field: a new one must be added here."""
    task = Task("p1", "policy", "answer: who?", "who?", ("Oslo", 'Ø"\n'), 2)
    full = {
        "round": 3, "phases_done": ((1, "grm"), (3, "generator")), "tasks": ((task,), ()), "phase_step": 4, "step": 17,
        "seconds": 0.1 + 0.2, "step_rewards": (0.1, 1 / 3), "accuracy": {"who is 1": 2 / 3},
        "environment": '{"level": 2}', "baselines": {"policy/policy": (0.1 + 0.2,), "policy/1/a": (1 / 3, 0.5)},
        "pool": {"who is 1": question(1, Attempt("Oslo", ("correct", None))), "who is 2": question(2)},
        "own": {"Duel/state": "3"},
        "settings": {"loss.clip_low": 0.1, "policy.group_size": 3, "loss.kind": "nft", "own_phase.A.options.b": True},
    }  # fmt: skip
    return TrainState(**{**full, **values})


def test_every_part_of_a_run_is_committed_or_rebuilt():
    assert {item.name for item in fields(RoundContext)} == {"state"} | REBUILT
    empty, full = TrainState(), state_of()
    names = [item.name for item in fields(TrainState)]
    assert all(getattr(full, name) != getattr(empty, name) for name in names), "state_of must fill every field"


def test_a_state_comes_back_as_it_was():
    state, back = state_of(), TrainState()
    written = json.loads(json.dumps(changes(snapshot(TrainState()), state)))
    restore(back, state_from_data(written))
    assert back == state and list(back.pool) == list(state.pool)
    assert isinstance(back.tasks[0][0], Task) and isinstance(back.pool["who is 1"].attempts[0], Attempt)


def test_only_what_changed_is_written():
    state = state_of()
    before = snapshot(state)
    assert changes(before, state) == {}
    state.phase_step = 5
    state.pool["who is 3"] = question(3)
    assert json.loads(json.dumps(changes(before, state))) == {
        "phase_step": 5,
        "pool": {
            "who is 3": {
                "id": "qg1-3",
                "text": "who is 3?",
                "references": ["Oslo"],
                "hops": 0,
                "fold": 0,
                "round": 1,
                "attempts": [],
            }
        },
    }
    del state.pool["who is 1"]
    after = CommittedState.of(
        [Commit("a", changes(snapshot(TrainState()), state_of())), Commit("b", changes(before, state))]
    )
    assert state_from_data(after.state) == state and list(state_from_data(after.state).pool) == ["who is 2", "who is 3"]
