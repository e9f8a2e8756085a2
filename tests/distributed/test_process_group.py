"""Several ranks against one, on the same data: the same step. Real processes over gloo."""

import json
import os
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from aslfast.checkpoint.state import TrainState
from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.core import Question
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group
from aslfast.errors import UserError
from aslfast.learner.advantages.signal import Signal
from aslfast.learner.learner import Learner
from aslfast.learner.optimizer_state import learner_bytes, load_learner_bytes
from aslfast.models import lora
from aslfast.rewards import Attempt
from aslfast.rounds.replicas import assert_replicas_in_sync, own_part, sync_initial_state
from tests.support.rank_processes import exit_codes, ranks_of
from tests.support.tiny_models import CHATML, byte_tokenizer, stir, tiny_model
from tests.support.token_streams import grouped, trajectory

PATIENCE_S = 120
LOSSES = {
    "token_mean": LossConfig(kl_coef=0.01),
    "sequence_mean": LossConfig(aggregate="sequence_mean", kl_coef=0.01, kl_estimator="k2"),
    "constant": LossConfig(aggregate="constant", trajectory_tokens=50, ratio_level="sequence"),
    "nft": LossConfig("nft"),
    "successes": LossConfig(sft_coef=0.5, tis_cap=2.0, tis_level="sequence", tis_mode="mask"),
}


def learner_of(loss, ranks=SINGLE_PROCESS):
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], "<|im_end|>")
    model = lora.add_adapters(tiny_model(tokenizer), 4, 8.0, seed=0)
    stir(model)
    options = LearnerConfig(learning_rate=1e-3, micro_batch_tokens=100, kl_every=2, max_skipped_steps=2)
    return Learner(model, options, loss, 0.7, ROLES, ranks)


def steps_of(learner, part):
    """Two steps on `part` of the data (a rank's places): (weights, statistics)."""
    trajectories, advantages = grouped()
    signals = [Signal(a, success=i % 3 == 0, rate=1 / 3) for i, a in enumerate(advantages)]
    own = [trajectories[i] for i in part], [signals[i] for i in part]
    stats = [asdict(learner.step("policy", *own)) for _ in range(2)]
    weights = {n: p.detach().clone() for n, p in learner.model.named_parameters() if ".policy." in n}
    return weights, stats


def learn_as_rank(folder, parts):
    torch.set_num_threads(1)
    with init_process_group("aslfast train --resume run") as ranks:
        for name, loss in LOSSES.items():
            weights, stats = steps_of(learner_of(loss, ranks), parts[ranks.rank])
            save_file(weights, folder / f"{name}-{ranks.rank}.safetensors")
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(stats))


# of `grouped`'s 13 trajectories; the silent one has no live token
N = len(grouped()[0])
SILENT = next(i for i, t in enumerate(grouped()[0]) if not t.n_sampled)
PARTS = {
    "two, one with nothing": [[], list(range(N))],
    "three, uneven, one with no live token": [[0, 1], [SILENT], [i for i in range(2, N) if i != SILENT]],
}


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {name: steps_of(learner_of(loss), range(N)) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("which", PARTS)
def test_ranks_take_the_step_of_one(alone, which, tmp_path):
    """The same update to 1e-6, the same statistics; and the same bits on all ranks."""
    parts = PARTS[which]
    assert exit_codes(ranks_of(len(parts), learn_as_rank, tmp_path, parts), PATIENCE_S) == [0] * len(parts)
    for name, (expected, expected_stats) in alone.items():
        before = {n: p for n, p in learner_of(LOSSES[name]).model.named_parameters() if n in expected}
        ranks = [load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in range(len(parts))]
        for key, weight in expected.items():
            assert (weight - before[key]).abs().max() > 1e-4  # two steps of 1e-3 that are seen
            assert (ranks[0][key] - weight).abs().max() <= 1e-6
            assert all(torch.equal(other[key], ranks[0][key]) for other in ranks)
        told = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(len(parts))]
        assert all(other == told[0] for other in told)
        for stats, wanted in zip(told[0], expected_stats, strict=True):
            packed = {"forward_tokens", "shared_tokens"}  # what shares a prefix depends on who is beside whom
            assert (
                stats["forward_tokens"] + stats["shared_tokens"] == wanted["forward_tokens"] + wanted["shared_tokens"]
            )
            same = {key: value for key, value in wanted.items() if key not in {*packed, "not_finite"}}
            known = {key: value for key, value in same.items() if value is not None}
            assert {key: stats[key] for key in known} == pytest.approx(known, rel=1e-4, abs=1e-6)
            assert known.keys() >= {"loss", "mismatch", "loss_tokens"}
            assert all(stats[key] is None for key in same.keys() - known.keys())


def skip_as_rank(folder):
    """A step of which rank 1 alone has what is not finite; then one that is sound; then two more that are not."""
    torch.set_num_threads(1)
    sound = [trajectory(20, 1), trajectory(30, 2)]
    spoilt = replace(sound[1], logprobs=tuple(float("nan") if live else 0.0 for live in sound[1].loss_mask))
    with init_process_group("aslfast train --resume run") as ranks:
        learner = learner_of(LOSSES["token_mean"], ranks)
        told = [learner.step("policy", [t if ranks.rank else sound[0]], [1.0]) for t in (spoilt, sound[1])]
        (folder / f"{ranks.rank}.json").write_text(json.dumps([asdict(stats) for stats in told]))
        for _ in range(2):
            learner.step("policy", [(sound[0], spoilt)[ranks.rank]], [1.0])


def test_a_step_is_skipped_by_all_or_none(tmp_path):
    processes = ranks_of(2, skip_as_rank, tmp_path)
    codes = exit_codes(processes, PATIENCE_S)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    skipped, done = told[0]
    assert skipped["grad_norm"] is None and skipped["not_finite"] == ["t2"] and done["grad_norm"] > 0
    assert codes == [1, 2]  # rank 0 raises what the other only ends with: max_skipped in a row


def test_a_learner_travels_as_bytes():
    first, other = (learner_of(LOSSES["token_mean"]) for _ in range(2))
    expected, _ = steps_of(first, range(N))
    load_learner_bytes(other, "policy", first.version["policy"], learner_bytes(first, "policy"))
    assert {n: p for n, p in other.model.named_parameters() if n in expected}.keys() == expected.keys()
    for learner in (first, other):
        learner.step("policy", *grouped())
    assert other.version == first.version
    for (name, weight), (_, theirs) in zip(first.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(weight, theirs), name


def begin_as_rank(folder, spoil):
    """Ranks that differ in weights, moments, versions and state begin as rank 0; then rank 1 drifts in one bit."""
    torch.set_num_threads(1)
    with init_process_group("aslfast train --resume run") as ranks:
        learner, state = learner_of(LOSSES["token_mean"], ranks), TrainState(round=ranks.rank + 1, seconds=ranks.rank)
        attempts = (Attempt("x", ("correct",)),)
        state.pool = {f"who is {ranks.rank}": Question("qg1-0-0", "who is", ("x",), 1, round=1, attempts=attempts)}
        stir(learner.model, seed=ranks.rank)
        if ranks.is_rank_zero:
            learner.version["policy"] = 7
            moments = learner.optimizers["policy"].state
            for parameter in lora.parameters_of(learner.model, "policy"):
                moments[parameter] = {
                    "step": torch.tensor(7.0), "exp_avg": torch.ones_like(parameter), "exp_avg_sq": parameter**2 + 1
                }  # fmt: skip
        sync_initial_state(learner, state, {"data.index": "a"})
        assert learner.version == {"generator": 0, "grm": 0, "policy": 7}
        assert state.round == 1 and list(state.pool) == ["who is 0"]
        assert state.pool["who is 0"].attempts == (Attempt("x", ("correct",)),)
        learner.step("policy", *(([], []) if ranks.is_rank_zero else grouped()))
        state.seconds += ranks.rank
        assert_replicas_in_sync(learner, state)
        (folder / str(ranks.rank)).touch()
        if ranks.rank == 1 and spoil == "weight":
            weight = lora.parameters_of(learner.model, "grm")[0].data
            weight.view(-1)[3] = torch.nextafter(weight.view(-1)[3], torch.tensor(9.0))
        elif ranks.rank == 1:
            state.pool = {}
        with pytest.raises(UserError, match=r"round 1: rank 1 no longer holds the weights and the state of rank 0"):
            assert_replicas_in_sync(learner, state)


@pytest.mark.parametrize("spoil", ["weight", "pool"])
def test_all_ranks_begin_as_the_first_and_a_difference_is_found(tmp_path, spoil):
    assert exit_codes(ranks_of(2, begin_as_rank, tmp_path, spoil), PATIENCE_S) == [0, 0]
    assert len(os.listdir(tmp_path)) == 2


def other_inputs_as_rank(said):
    with init_process_group("aslfast train --resume run") as ranks:
        inputs = {"model.path": "a", "data.index": "ab"[ranks.rank]}
        with pytest.raises(UserError) as error:
            sync_initial_state(learner_of(LOSSES["token_mean"], ranks), TrainState(), inputs)
        (said / str(ranks.rank)).write_text(str(error.value))


def test_all_ranks_read_the_same_inputs(tmp_path):
    assert exit_codes(ranks_of(2, other_inputs_as_rank, tmp_path), PATIENCE_S) == [0, 0]
    assert (tmp_path / "0").read_text() == "data.index differs between rank 1 and rank 0; give all ranks the same"


def test_tasks_are_shared_out_and_put_together():
    for n in (0, 1, 5, 6):
        for size in (1, 2, 3, 7):
            ranks = [ProcessGroup(rank, size) for rank in range(size)]
            assert ranks[0].interleave([r.shard(list(range(n))) for r in ranks]) == list(range(n))


def test_the_learners_parts_are_whole_and_of_like_size():
    trajectories, advantages = grouped()
    for size in (1, 2, 3, 20):
        parts = [own_part(ProcessGroup(rank, size), trajectories, advantages) for rank in range(size)]
        assert [t for part, _ in parts for t in part] == trajectories
        assert [a for _, part in parts for a in part] == advantages
        tokens = [sum(len(t.token_ids) for t in part) for part, _ in parts]
        longest = max(len(t.token_ids) for t in trajectories)
        assert max(tokens) - sum(tokens) / size <= longest
    assert own_part(ProcessGroup(0, 2), [], []) == ([], [])


def test_without_torchrun_one_process_is_all_there_is():
    with init_process_group("") as ranks:
        assert (ranks.rank, ranks.size, ranks.is_rank_zero) == (0, 1, True)
        assert ranks.all_gather(b"x") == [b"x"] and ranks.broadcast(b"y") == b"y"
        ranks.all_reduce_sum([number := torch.ones(2)])
        assert number.tolist() == [1.0, 1.0]
