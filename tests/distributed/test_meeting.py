"""Ranks that never come: who is missing, for how long it is waited, and how to start alone. Real sockets and stores."""

import os
import socket
import subprocess
import sys
import time

import pytest

from aslfast.distributed import meeting
from aslfast.distributed.meeting import VARIABLES, Launch, launch_of_environment, meet
from aslfast.distributed.process_group import init_process_group, is_rank_zero
from aslfast.errors import UserError
from tests.support.rank_processes import exit_codes, ranks_of

ALONE = "start all ranks with torchrun, or this process alone: env -u RANK -u WORLD_SIZE -u MASTER_ADDR -u MASTER_PORT "


@pytest.fixture
def place(monkeypatch):
    """Set the variables of a rank, as they stand in a pod's environment."""

    def set_variables(**values):
        for name in (*VARIABLES, "TORCHELASTIC_USE_AGENT_STORE", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize(
    "values, said",
    [
        ({"WORLD_SIZE": "4"}, "RANK is not set"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four', no number from 1 to 1000000"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "9" * 30}, "no number from 1"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h"}, "MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "nothing"}, "MASTER_PORT is 'nothing'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "65536"}, "from 0 to 65535"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, "RANK is 2, but WORLD_SIZE only 2"),
    ],
)
def test_variables_that_make_no_sense_are_named(place, values, said):
    place(**values)
    with pytest.raises(UserError) as error, init_process_group(""):
        raise AssertionError
    unset = " ".join(f"-u {name}" for name in VARIABLES if name in values)
    assert said in str(error.value) and str(error.value).endswith(f"alone: env {unset} aslfast ...")


def test_one_process_is_rank_zero_whatever_else_is_set(place):
    for values in ({}, {"WORLD_SIZE": "1", "RANK": "3"}, {"RANK": "3"}):
        place(**values)
        assert launch_of_environment() is None and is_rank_zero()
    place(WORLD_SIZE="2", RANK="1", MASTER_ADDR="h", MASTER_PORT="1")
    assert launch_of_environment() == Launch(1, 2, "h", 1) and not is_rank_zero()


@pytest.mark.parametrize("rank, whom", [(0, "ranks 1, 2"), (1, "rank 0")])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_stale_rank_says_whom_it_waits_for_and_ends(place, capfd, monkeypatch, rank, whom, host):
    monkeypatch.setattr(meeting, "NOTICE_S", 0.3)
    port = free_port()
    place(WORLD_SIZE=3, RANK=rank, MASTER_ADDR=host, MASTER_PORT=port)
    launch, started = Launch(rank, 3, host, port), time.monotonic()
    with pytest.raises(UserError) as error:
        meet(launch, timeout_s=1.5)
    assert time.monotonic() - started < 10
    where = f"{whom} at {host}:{port} (WORLD_SIZE=3 and MASTER_ADDR are set)"
    assert f"ranks: rank {rank} has waited" in str(error.value) and f"s for {where}; {ALONE}" in str(error.value)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"aslfast: rank {rank} waits for {where}, at most 2 s; {ALONE}")


def test_the_command_line_says_it_within_seconds(tmp_path):
    """A pod's stale variables, the command as a user types it: a line while it waits, and Ctrl-C ends it."""
    stale = {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "aslfast", "train", "--recipe", "tiny", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=_environment() | stale, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    line = process.stderr.readline()
    process.send_signal(2)
    rest = process.communicate(timeout=60)[1]
    assert line.startswith("aslfast: rank 0 waits for ranks 1, 2, 3 at 10.0.0.7:") and "at most 300 s" in line
    assert process.returncode == 130 and "Traceback" not in rest
    assert not (tmp_path / "run").exists()


def _environment():
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def come_late(seconds_by_rank):
    time.sleep(seconds_by_rank[int(os.environ["RANK"])])
    with init_process_group("aslfast train --resume run") as ranks:
        assert ranks.all_gather(str(ranks.rank).encode()) == [b"0", b"1", b"2"]


def test_ranks_may_come_in_any_order():
    assert exit_codes(ranks_of(3, come_late, [0.5, 0.0, 1.0]), 60) == [0, 0, 0]
