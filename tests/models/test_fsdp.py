"""A base that ranks hold between them: the same step as with a whole one, a part of the memory, one engine for all."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from aslfast.config import load_recipe, to_toml
from aslfast.config.roles import ROLES
from aslfast.config.schema import LearnerConfig, LossConfig
from aslfast.distributed.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group
from aslfast.distributed.watchdog import GRACE_S
from aslfast.errors import UserError
from aslfast.learner.learner import Learner
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.models.base_source import check_shardable
from aslfast.models.base_weights import BaseWeights
from aslfast.sampler.sglang.engine_client import is_alive
from tests.support.killed_runs import lab_config, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of, same_run, stderr_of
from tests.support.tiny_models import CHATML, byte_tokenizer, stir, tiny_model
from tests.support.token_streams import grouped

PATIENCE_S, RUN_S = 60, 300
N = len(grouped()[0])
LOSS = LossConfig(kl_coef=0.01)
PARTS = {2: [list(range(N)), []], 4: [[0], [], [1, 2], list(range(3, N))]}  # more and fewer packs, none at all


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], "<|im_end|>")
    tiny_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def learner_of(folder, checkpointing, ranks=SINGLE_PROCESS):
    source = "sharded" if ranks.model_parallel_size > 1 else "loaded"
    model = lora.add_adapters(load_base(folder, source=source)[0], 4, 8.0, seed=0)
    stir(model)
    if ranks.model_parallel_size > 1:
        BaseWeights(model, folder).shard(ranks)
    options = LearnerConfig(
        learning_rate=1e-3, micro_batch_tokens=60, kl_every=2, activation_checkpointing=checkpointing
    )
    return Learner(model, options, LOSS, 0.7, ROLES, ranks)


def steps_of(learner, part):
    trajectories, advantages = grouped()
    own = [trajectories[i] for i in part], [advantages[i] for i in part]
    stats = [asdict(learner.step("policy", *own)) for _ in range(2)]
    return {n: p.detach().clone() for n, p in learner.model.named_parameters() if ".policy." in n}, stats


def learn_in_groups(folder, out, checkpointing):
    torch.set_num_threads(1)
    with init_process_group("aslfast train --resume run") as ranks:
        ranks.form_model_parallel_groups(2)
        learner = learner_of(folder, checkpointing, ranks)
        weights, stats = steps_of(learner, PARTS[ranks.size][ranks.rank])
        save_file(weights, out / f"{ranks.rank}.safetensors")
        held = sum(p.to_local().numel() for p in learner.model.parameters() if isinstance(p, DTensor))
        (out / f"{ranks.rank}.json").write_text(json.dumps({"stats": stats, "held": held}))


@pytest.mark.parametrize(("size", "checkpointing"), [(2, "none"), (2, "layers"), (4, "selective")])
def test_a_base_in_parts_takes_the_step_of_a_whole_one(folder, tmp_path, size, checkpointing):
    processes = ranks_of(size, learn_in_groups, folder, tmp_path, checkpointing)
    assert exit_codes(processes, PATIENCE_S) == [0] * size
    learner = learner_of(folder, "none")
    layers = sum(p.numel() for n, p in learner.model.named_parameters() if ".layers." in n and "lora" not in n)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    expected, expected_stats = steps_of(learner, range(N))
    held = 0
    for rank in range(size):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        held += told["held"]
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name, weight in expected.items():
            assert (weight - before[name]).abs().max() > 1e-4  # it moved
            assert (found[name] - weight).abs().max() <= 1e-6
        for here, there in zip(told["stats"], expected_stats, strict=True):
            for key in ("loss", "grad_norm", "kl", "loss_tokens", "mismatch"):
                assert here[key] == pytest.approx(there[key], rel=1e-4, abs=1e-6)
    assert held == layers * size // 2  # each group holds the layers once


# --- a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A run of three steps with the engine."""
    folder = tmp_path_factory.mktemp("world")
    config = lab_config(folder)
    config = replace(
        config,
        sampler=replace(config.sampler, kind="sglang", max_running_requests=8, temperature=0.9),
        generator=replace(config.generator, steps=1, prompts_per_step=3, hops=(2, 3)),
        grm=replace(config.grm, prompts_per_step=4, group_size=4),
        policy=replace(config.policy, steps=1, prompts_per_step=3, group_size=4),
        monitor=replace(config.monitor, judge_probe=0),
    )
    file = folder / "recipe.toml"
    file.write_text(to_toml(config))
    return file


def go(size, folder, recipe, run):
    folder.mkdir()
    return ranks_of(
        size,
        command,
        folder,
        "train",
        "--recipe",
        recipe,
        "--set",
        f"distributed.model_parallel_size={size}",
        "--out",
        run,
    )


def test_a_run_of_two_halves_is_a_run_of_one_whole(recipe, tmp_path):
    """One engine of two processes, a base in two parts: the samples, the steps and the adapters of one rank alone."""
    assert exit_codes(go(1, tmp_path / "one", recipe, tmp_path / "whole"), RUN_S) == [0]
    codes = exit_codes(go(2, tmp_path / "two", recipe, tmp_path / "halves"), RUN_S)
    assert codes == [0, 0], [stderr_of(tmp_path / "two", rank)[-2000:] for rank in range(2)]
    same_run(tmp_path / "halves", tmp_path / "whole")
    learnt = [line["grad_norm"] for line in untimed(tmp_path / "whole" / "metrics.jsonl")]
    assert sum(map(bool, learnt)) >= 2  # else it says nothing of the learner


def test_when_one_half_dies_the_other_ends(recipe, tmp_path):
    folder, run = tmp_path / "two", tmp_path / "run"
    processes = go(2, folder, recipe, run)
    wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") > 0)
    engines = engines_of(processes[0].pid)
    assert len(engines) >= 3  # the host and a scheduler for each half
    processes[1].kill()
    assert exit_codes(processes, GRACE_S + 10)[0] == 2
    assert "rank 1" in stderr_of(folder, 0) and "is gone" in stderr_of(folder, 0) and "--resume" in stderr_of(folder, 0)
    wait_for(lambda: not any(map(is_alive, engines)))


def wait_for(what):
    deadline = time.monotonic() + RUN_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def engines_of(pid):
    """All processes that it started, and those that they started."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return children + [grandchild for child in children for grandchild in engines_of(child)]


# --- what cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "local", "words"),
    [
        (1, "1", "1 ranks run"),
        (4, "1", "1 on this machine"),
        (3, "3", "both must be multiples of it"),
    ],
)
def test_groups_that_cannot_be_are_refused(monkeypatch, size, local, words):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    with pytest.raises(UserError, match=words):
        ProcessGroup(0, size).form_model_parallel_groups(2)


def test_the_local_sampler_needs_the_whole_base():
    with pytest.raises(UserError, match=r"set sampler\.kind to sglang"):
        load_recipe("tiny", ["distributed.model_parallel_size=2"])


def test_a_base_of_unknown_parts_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(UserError, match="gpt2"):
        check_shardable(tmp_path, 2)
    with pytest.raises(UserError, match="the model has 4 attention heads"):
        check_shardable(folder, 3)
    check_shardable(folder, 4)


def test_group_leaders_sample():
    """Two groups of two: the first of each samples every other task, the second none."""
    ranks = [ProcessGroup(rank, 4) for rank in range(4)]
    for rank in ranks:
        rank.model_parallel_size = 2
    parts = [rank.shard("abcde") for rank in ranks]
    assert [list(part) for part in parts] == [["a", "c", "e"], [], ["b", "d"], []]
    assert ranks[3].interleave(parts) == list("abcde")
