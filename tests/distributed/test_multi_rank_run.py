"""Runs of several ranks: the numbers of a run of one; and one line, in time, when a rank dies, hangs or fails."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from aslfast.config import from_tree, load_recipe, to_toml, toml
from aslfast.config.schema import DistributedConfig
from aslfast.distributed.watchdog import GRACE_S
from aslfast.files.shipped import LAB_BASE
from tests.support.killed_runs import lab_config, untimed
from tests.support.rank_processes import command, exit_codes, ranks_of, same_run, stderr_of

PATIENCE_S = 300
DIES_S = GRACE_S + 10  # until all have ended after a rank died: at once, here on a machine that is busy
SILENT_S = 4.0
DUEL = """
phases = ["tests.support.own.phases:Four"]

[roles.first]
output = ["question", "answer"]
prompt = "ask 1: {asked}"

[roles.second]
prompt = "answer: {said}"
depth = 1

[roles.policy]
adapter = "second"
prompt = "answer: {said}"
temperature = 1.3

[roles.watcher]
adapter = "base"
prompt = "answer: {said}"

[own_phase.Four]
steps = 2
tasks_per_step = 3
group_size = 3

[distributed]  # this test waits for nobody's silence
timeout_s = 60.0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A run of three steps, a second or two."""
    folder = tmp_path_factory.mktemp("world")
    config = lab_config(folder)
    config = replace(
        config,
        generator=replace(config.generator, steps=1, prompts_per_step=3, group_size=2, self_checks=1),
        policy=replace(config.policy, steps=1),
        advantage=replace(config.advantage, scale="whitened"),  # of all ranks' groups
        distributed=DistributedConfig(timeout_s=SILENT_S),
    )
    file = folder / "recipe.toml"
    file.write_text(to_toml(config))
    return file


def go(size, folder, *arguments):
    return ranks_of(size, command, folder, "train", *arguments)


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The folder of a run of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    assert exit_codes(go(1, folder, "--recipe", recipe, "--out", folder / "run"), PATIENCE_S) == [0]
    return folder / "run"


def texts_of(run):
    rows = {p.name: pq.read_table(p).to_pylist() for p in sorted((run / "trajectories").iterdir())}
    return {name: [(row["task_id"], row["token_ids"], row["reward"]) for row in table] for name, table in rows.items()}


def test_two_ranks_learn_as_one(recipe, alone, tmp_path):
    assert exit_codes(go(2, tmp_path, "--recipe", recipe, "--out", tmp_path / "run"), PATIENCE_S) == [0, 0]
    same_run(tmp_path / "run", alone)
    assert texts_of(tmp_path / "run") == texts_of(alone)
    assert sum(line["grad_norm"] > 0 for line in untimed(alone / "metrics.jsonl")) >= 2
    assert "policy accuracy" in stderr_of(tmp_path, 0) and stderr_of(tmp_path, 1) == ""


def of_a_duel(config, folder):
    """Return a recipe with two roles that learn, one on the base, and one on another's adapter, at a temperature of
    its own."""
    config = from_tree({**toml.parse(to_toml(config)), **toml.parse(DUEL)}, "duel")
    (folder / "duel.toml").write_text(to_toml(config))
    return folder / "duel.toml"


def test_two_ranks_learn_as_one_from_a_phase_of_ones_own(recipe, tmp_path):
    duel = of_a_duel(load_recipe(str(recipe)), tmp_path)
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        processes = go(size, tmp_path / str(size), "--recipe", duel, "--out", tmp_path / str(size) / "run")
        assert exit_codes(processes, PATIENCE_S) == [0] * size, stderr_of(tmp_path / str(size), 0)
    one, two = tmp_path / "1" / "run", tmp_path / "2" / "run"
    same_run(two, one)
    assert texts_of(two) == texts_of(one)
    for line in untimed(one / "metrics.jsonl"):
        assert set(line["roles"]) == {"first", "second", "policy", "watcher"} and line["mismatch_max"] < 1e-3
        assert line["grad_norm"] > 0 and line["other_updates"]["second"]["grad_norm"] > 0


def once_written(run, n_lines, processes):
    """Waits until so many steps are committed."""
    deadline = time.monotonic() + PATIENCE_S
    while len(untimed(run / "metrics.jsonl")) < n_lines:
        assert all(p.is_alive() for p in processes) and time.monotonic() < deadline
        time.sleep(0.01)


def started_again(folder, recipe, run):
    """As torchrun --max-restarts does it: the same command, and one variable that tells."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
    command(folder, "train", "--recipe", recipe, "--out", run)


@pytest.mark.parametrize(("killed", "ranks_after"), [(1, 2), (0, 1)])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on(recipe, alone, tmp_path, killed, ranks_after):
    run = tmp_path / "run"
    processes = go(2, tmp_path, "--recipe", recipe, "--out", run)
    once_written(run, 1, processes)
    processes[killed].kill()
    begun = time.monotonic()
    codes = exit_codes(processes, DIES_S)
    assert time.monotonic() - begun < DIES_S
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 2
    last = stderr_of(tmp_path, 1 - killed).splitlines()[-1]
    assert re.fullmatch(
        rf"aslfast: error: rank {killed} \(.*, process {processes[killed].pid}\) is gone, its process has ended; "
        rf"go on, with any number of ranks: aslfast train --resume {run}",
        last,
    )
    assert "Traceback" not in stderr_of(tmp_path, 1 - killed)
    if ranks_after == 2:
        processes = ranks_of(2, started_again, tmp_path, recipe, run)
    else:
        processes = go(1, tmp_path, "--resume", run)
    assert exit_codes(processes, PATIENCE_S) == [0] * ranks_after
    assert "resumed in round 1/1" in stderr_of(tmp_path, 0)
    same_run(run, alone)
    other = "ranks 1 (it was 2): the run goes on, but not bit for bit as it would have"
    assert (other in stderr_of(tmp_path, 0)) == (ranks_after == 1)


def test_a_silent_rank_is_noticed_in_the_stated_time(recipe, tmp_path):
    """A process that is stopped keeps its connection: only its silence tells."""
    processes = go(3, tmp_path, "--recipe", recipe, "--out", tmp_path / "run")
    once_written(tmp_path / "run", 1, processes)
    os.kill(processes[1].pid, signal.SIGSTOP)
    begun = time.monotonic()
    for rank in (0, 2):
        processes[rank].join(SILENT_S + DIES_S)
        assert processes[rank].exitcode == 2
    assert time.monotonic() - begun > SILENT_S / 2
    exit_codes(processes, 0)
    last = stderr_of(tmp_path, 0).splitlines()[-1]
    assert re.search(
        r"error: rank 1 \(.*\) has been silent for \d+ s \(distributed.timeout_s\); go on, with any number", last
    )
    assert stderr_of(tmp_path, 2) == ""  # rank 0 says it once


def test_a_stop_of_one_rank_stops_all_between_two_commits(recipe, tmp_path):
    """SIGTERM, as a queueing system sends it: here to one of them."""
    run = tmp_path / "run"
    processes = go(2, tmp_path, "--recipe", recipe, "--out", run)
    once_written(run, 1, processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert exit_codes(processes, PATIENCE_S) == [130, 130]
    assert stderr_of(tmp_path, 0).splitlines()[-1] == f"aslfast: stopped; go on with: aslfast train --resume {run}"
    assert stderr_of(tmp_path, 1) == ""


def without_a_base(folder, recipe):
    """Rank 1 stands where the base's relative path leads nowhere: as on a machine to which it was not copied."""
    os.chdir(folder / os.environ["RANK"])
    command(folder, "train", "--recipe", recipe, "--out", folder / "run", "--set", "model.path=base")


def test_an_error_of_another_rank_is_said_once_and_leaves_nothing(recipe, tmp_path):
    for rank in "01":
        (tmp_path / rank).mkdir()
    (tmp_path / "0" / "base").symlink_to(LAB_BASE)
    assert exit_codes(ranks_of(2, without_a_base, tmp_path, recipe), PATIENCE_S) == [2, 2]
    last = (
        "aslfast: error: rank 1: base: no model here (config.json is missing); name a folder that holds a Hugging Face"
    )
    said = stderr_of(tmp_path, 0).splitlines()
    assert said[-1] == f"{last} model" and sum("error" in line for line in said) == 1
    assert stderr_of(tmp_path, 1) == "" and not (tmp_path / "run").exists()


def test_torchrun_starts_ranks_that_meet(alone, tmp_path):
    """The launcher itself; of a finished run nothing is left to do but to agree on that."""
    run = shutil.copytree(alone, tmp_path / "run")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "aslfast"]
    done = subprocess.run(
        [*line, "train", "--resume", str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished, all 1 rounds; nothing to go on with") == 1
    assert done.stdout.count("Ground truth by round") == 1
