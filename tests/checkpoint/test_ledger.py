"""The ledger: what is committed is whole, in order and checked; nothing else of a run counts."""

import json
import sqlite3
from dataclasses import fields

import pytest
import torch

from aslfast.checkpoint.ledger import Commit, CommittedState, Ledger, Provenance
from aslfast.checkpoint.recovery import recover
from aslfast.checkpoint.run_dir import RunDir
from aslfast.checkpoint.state import Attempt, PoolQuestion, TrainState, changes, of_data, restore, snapshot
from aslfast.config import load_recipe
from aslfast.core import ROLES, Task
from aslfast.errors import UserError
from aslfast.files.checksum import StoredFile
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import load_learner, save_learner
from aslfast.models import lora
from aslfast.rounds.context import RoundContext
from aslfast.trainer import provenance
from tests.support.faults.small_disk import small_disk
from tests.support.tiny_models import stir, tiny_model
from tests.support.token_streams import trajectory

# --- what a run remembers -----------------------------------------------------------------------------------------

# Of a RoundContext, what is made from config.toml. Anything that a later step reads must be in TrainState.
REBUILT = {"config", "learner", "rollout", "data", "checkpointer", "check_weight_sync", "observer"}


def question(number, *attempts):
    return PoolQuestion(f"qg1-{number}", f"who is {number}?", "Oslo", number % 3, attempts)


def state_of(**values):
    """A state with something in every field: a new one must be added here."""
    task = Task("p1", "policy", "answer: who?", "who?", ("Oslo", 'Ø"\n'), 2)
    full = {
        "round": 3, "phases_done": ((1, "grm"), (3, "generator")), "tasks": ((task,), ()), "phase_step": 4, "step": 17,
        "seconds": 0.1 + 0.2, "step_rewards": (0.1, 1 / 3), "accuracy": {"who is 1": 2 / 3},
        "pool": {"who is 1": question(1, Attempt("Oslo", ("correct", None))), "who is 2": question(2)},
    }  # fmt: skip
    return TrainState(**{**full, **values})


def test_every_field_of_a_state_survives_or_is_rebuilt():
    assert {item.name for item in fields(RoundContext)} == {"state"} | REBUILT
    empty, full = snapshot(TrainState()), snapshot(state_of())
    assert all(full[name] != empty[name] for name in empty), "state_of must fill every field"


def test_a_state_comes_back_as_it_was():
    state, back = state_of(), TrainState()
    written = json.loads(json.dumps(changes(snapshot(TrainState()), state)))
    restore(back, snapshot(of_data(written)))
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
                "question": "who is 3?",
                "reference": "Oslo",
                "hops": 0,
                "attempts": [],
                "fold": 0,
                "round": 0,
            }
        },
    }
    del state.pool["who is 1"]
    after = CommittedState.of(
        [Commit("a", changes(snapshot(TrainState()), state_of())), Commit("b", changes(before, state))]
    )
    assert of_data(after.state) == state and list(of_data(after.state).pool) == ["who is 2", "who is 3"]


# --- the store -----------------------------------------------------------------------------------------------------

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


def test_the_end_may_be_cut_and_written_anew(filled):
    ledger = Ledger(filled)
    ledger.read()
    assert ledger.cut(1) == COMMITS[:1]
    ledger.append(COMMITS[2])
    ledger.close()
    assert read(filled) == [COMMITS[0], COMMITS[2]]
    ledger = Ledger(filled)
    ledger.read()
    assert ledger.cut(0) == []
    ledger.append(COMMITS[1])
    ledger.close()
    assert read(filled) == [COMMITS[1]]


def test_a_damaged_ledger_is_never_taken_for_a_whole_one(filled):
    """Cut anywhere, or a byte changed anywhere: as it was, or a UserError that names it."""
    whole = filled.read_bytes()
    found = {"read": 0, "refused": 0}
    cut = [whole[:n] for n in range(1, len(whole), 61)]
    changed = [
        whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :]
        for n in [*range(110), *range(4090, 4130), *range(110, len(whole), 29)]
    ]
    for data in cut + changed:
        filled.write_bytes(data)
        try:
            assert read(filled) == COMMITS
            found["read"] += 1
        except UserError as error:
            assert str(error).startswith(f"{filled}: ")
            found["refused"] += 1
    assert found["refused"] > 100 and found["read"] > 20  # most of a page is unused


def test_what_another_version_wrote_is_named(filled):
    with sqlite3.connect(filled) as store_:
        store_.execute("PRAGMA application_id=9")
    with pytest.raises(UserError, match=r"ledger.sqlite: not a ledger that this aslfast reads; use the version that"):
        read(filled)


def test_what_is_no_number_is_not_committed(filled):
    ledger = Ledger(filled)
    ledger.read()
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(Commit("step", lines={"m.jsonl": {"kl": float("nan")}}))
    ledger.close()
    assert read(filled) == COMMITS


# --- the folder ----------------------------------------------------------------------------------------------------


def a_run(path):
    """Three commits with a file each; the second one drops the first's."""
    run = RunDir.create(path, load_recipe("tiny"))
    state = TrainState(pool={"who is 1": question(1)})
    (path / "steps").mkdir()
    for number, dropped in ((1, ()), (2, ("steps/1",)), (3, ())):
        file = path / "steps" / str(number)
        file.write_bytes(bytes([number]) * 1000)
        state.step = number
        run.commit("step", state, [file], dropped, {"metrics.jsonl": {"step": number}})
    return run, state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_dropped_file_goes_with_the_commit_after(tmp_path):
    run, state = a_run(tmp_path / "run")
    assert names(run.path / "steps") == ["2", "3"]
    run.commit("step", state, dropped=["steps/2"])
    assert names(run.path / "steps") == ["2", "3"] and set(run.files) == {"steps/3"}
    run.commit("step", state)
    assert names(run.path / "steps") == ["3"]


def test_a_commit_holds_what_changed_since_the_one_before(tmp_path):
    run, _ = a_run(tmp_path / "run")
    run.close()
    first, *later = read(tmp_path / "run" / "ledger.sqlite")
    assert set(first.state) == {"pool", "step"} and [commit.state for commit in later] == [{"step": 2}, {"step": 3}]


def test_the_last_commit_can_be_taken_back_after_a_resume_too(tmp_path):
    run, state = a_run(tmp_path / "run")
    state.step = 4
    (run.path / "steps" / "4").write_bytes(b"4")
    run.commit("step", state, [run.path / "steps" / "4"], ["steps/3"])
    run.close()
    RunDir.resume(run.path).close()
    (run.path / "steps" / "4").write_bytes(b"")
    with RunDir.resume(run.path) as taken:
        taken.restore(state)
        assert len(taken.warnings) == 1 and state.step == 3 and set(taken.files) == {"steps/2", "steps/3"}
    assert names(run.path / "steps") == ["2", "3"]


def test_what_is_not_committed_goes(tmp_path):
    run, state = a_run(tmp_path / "run")
    run.close()
    path = run.path
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    for leftover in ("steps/4", "steps/.5.partial", "trajectories/round-001-grm.parquet", ".rounds.jsonl.partial"):
        (path / leftover).parent.mkdir(exist_ok=True)
        (path / leftover).write_text("x")
    for leftover in ("adapters/policy/v0003", "adapters/policy/.v0004.partial"):
        (path / leftover).mkdir(parents=True)
        (path / leftover / "adapter_config.json").write_text("{}")
    for mine in ("notes.txt", "adapters/policy/notes.txt", "trajectories/mine.parquet"):
        (path / mine).write_text("mine")
    with RunDir.resume(path) as taken:
        assert not taken.warnings and set(taken.files) == {"steps/2", "steps/3"}
        back = TrainState()
        taken.restore(back)
        assert back == state
    assert names(path / "steps") == ["2", "3"] and names(path / "trajectories") == ["mine.parquet"]
    assert names(path / "adapters" / "policy") == ["notes.txt"] and (path / "notes.txt").exists()
    assert [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 3},
    ]  # fmt: skip


def test_a_full_disk_costs_only_what_was_not_committed(tmp_path):
    """The ledger cannot grow, then the file of lines cannot: an error with the remedy, and the next attempt works."""
    run, state = a_run(tmp_path / "run")
    ledger = run.path / "ledger.sqlite"
    before = snapshot(state)
    state.pool = {f"question {i}": question(i) for i in range(1000)}
    with small_disk(ledger.stat().st_size), pytest.raises(UserError, match=r"run: cannot be written \(.*\); free"):
        run.commit("step", state, lines={"metrics.jsonl": {"step": 4}})
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 3
    run.close()
    with RunDir.resume(run.path) as again:
        back = TrainState()
        again.restore(back)
        assert snapshot(back) == before
        again.commit("step", state, lines={"metrics.jsonl": {"step": 4}})
    with RunDir.resume(run.path) as again:
        again.restore(back)
        assert back == state


def test_two_damaged_commits_are_too_many(tmp_path):
    run, _ = a_run(tmp_path / "run")
    run.close()
    for number in (2, 3):
        (run.path / "steps" / str(number)).write_bytes(b"")
    ledger = Ledger(run.path / "ledger.sqlite")
    with pytest.raises(UserError, match=r"steps/2: damaged \(0 bytes, expected 1000\); put back a copy of it"):
        recover(run.path, ledger)
    assert names(run.path / "steps") == ["2", "3"]
    ledger.close()


# --- the learner ---------------------------------------------------------------------------------------------------


def a_learner(tokenizer, seed):
    config = load_recipe("tiny")
    model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=seed)
    stir(model, seed=seed + 1)
    return Learner(model, config.learner, config.loss, 0.7, ROLES)


def a_step(learner, role, seed):
    batch = [trajectory(30, seed + i, n_vocab=learner.model.config.vocab_size) for i in range(4)]
    return learner.step(role, batch, [1.0, -1.0, 0.5, -0.5])


def weights(learner):
    return {name: weight.detach().clone() for name, weight in learner.model.named_parameters() if ".lora_" in name}


def test_a_learner_goes_on_bit_for_bit(tokenizer, tmp_path):
    """After two steps saved, and put into a learner that began elsewhere: the third step is the same for both."""
    first, other = a_learner(tokenizer, 0), a_learner(tokenizer, 5)
    for seed in (0, 1):
        a_step(first, "policy", seed)
    for role in ROLES:
        load_learner(other, role, save_learner(first, role, tmp_path / "steps" / f"{role}.safetensors"))
    assert other.version == first.version == {"generator": 0, "grm": 0, "policy": 2}
    for role, seed in (("policy", 2), ("grm", 3)):
        assert a_step(first, role, seed) == a_step(other, role, seed)
    mine, theirs = weights(first), weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_full_disk_leaves_no_half_of_a_learner(tokenizer, tmp_path):
    learner = a_learner(tokenizer, 0)
    with small_disk(2000), pytest.raises(OSError):
        save_learner(learner, "policy", tmp_path / "steps" / "policy.safetensors")
    assert names(tmp_path / "steps") == []


# --- what a run depends on -----------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_names_sizes_and_contents(tmp_path):
    def mark(**files):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return provenance.fingerprint(folder)

    big = bytes(5 << 20)
    first = mark(weights=big, config=b"{}")
    assert first == mark(weights=big, config=b"{}")
    others = [mark(weights=b"\1" * len(big)), mark(weights=big[1:]), mark(weights=big, config=b"[]")]
    (tmp_path / "model" / ".cache").mkdir()
    (tmp_path / "model" / ".cache" / "lock").write_text("x")
    assert mark(config=b"{}") == first
    assert len({first, *others, mark(more=b"")}) == 5


def test_another_input_is_refused_and_other_software_is_said():
    now = provenance.provenance_of(load_recipe("tiny"))
    assert now.software["torch"] == torch.__version__ and set(now.inputs) == {"model.path"}
    assert provenance.compare(now, now) == []
    before = Provenance(now.inputs, {**now.software, "torch": "2.0"})
    (warning,) = provenance.compare(before, now)
    assert warning.startswith(f"torch {torch.__version__} (it was 2.0): the run goes on, but not bit for bit")
    with pytest.raises(UserError, match=r"model\.path: not what it was when the run started"):
        provenance.compare(Provenance({"model.path": "other"}, now.software), now)
