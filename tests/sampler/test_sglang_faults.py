"""What an engine's loss does to the requests under way: nothing but time. One sampler for all faults, in this order.

Stated: a process that ends is noticed at once, a hang engine_timeout_s after the last progress and at most a second
more; a busy machine gets some seconds on top.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aslfast.errors import UserError
from aslfast.sampler.protocol import SampleRequest
from aslfast.sampler.sglang.engine_client import is_alive
from aslfast.sampler.sglang.wire import LENGTHS, MAX_HEADER, pack, read
from tests.support.tiny_models import lab_sampler, lab_with_adapters

TIMEOUT_S = 10.0
AT_ONCE_S = 5.0  # on a busy machine
ROLES_AND_BASE = ("generator", "grm", "policy", None)
HOST, SCHEDULER = 0, 1  # of an engine's pids


def requests():
    rng = random.Random(0)
    return [
        SampleRequest(
            tuple(rng.randrange(1000) for _ in range(20 + 3 * i)), f"f{i}", ROLES_AND_BASE[i % 4],
            20 if i % 4 == 0 else 250, 0.74, seed=i,
        )
        for i in range(32)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def notices():
    return []


@pytest.fixture(scope="module")
def sampler(notices):
    made = lab_sampler(
        *lab_with_adapters(), notify=lambda text: notices.append((time.monotonic(), text)),
        engine_timeout_s=TIMEOUT_S, engine_restarts=3,
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(sampler):
    async def play():
        return await asyncio.gather(*map(sampler.generate, requests()))

    return asyncio.run(play())


async def play_with_fault(sampler, which, what):
    """All 32 requests; once some have ended, the signal is sent. Also when, and how many had ended by then."""
    turns = [asyncio.ensure_future(sampler.generate(request)) for request in requests()]
    while sum(turn.done() for turn in turns) < 4:
        await asyncio.sleep(0.01)
    ended = sum(turn.done() for turn in turns)
    struck = time.monotonic()
    os.kill(sampler.running_engine().pids[which], what)
    return await asyncio.gather(*turns, return_exceptions=True), struck, ended


@pytest.mark.parametrize(
    "which, what, within_s, words",
    [
        (SCHEDULER, signal.SIGKILL, AT_ONCE_S, "its process has ended"),
        (HOST, signal.SIGKILL, AT_ONCE_S, "its process has ended"),
        (SCHEDULER, signal.SIGSTOP, TIMEOUT_S + AT_ONCE_S, f"it made no progress for {TIMEOUT_S:g} s"),
    ],
)
def test_all_requests_survive_the_loss_of_the_engine(sampler, notices, undisturbed, which, what, within_s, words):
    pids, versions = sampler.running_engine().pids, [sampler.version(role) for role in ROLES_AND_BASE[:3]]
    before = len(notices)
    samples, struck, ended = asyncio.run(play_with_fault(sampler, which, what))
    assert ended < 24  # else the fault came too late to be one
    assert [(s.token_ids, s.finish) for s in samples] == [(s.token_ids, s.finish) for s in undisturbed]
    for mine, theirs in zip(samples, undisturbed, strict=True):
        assert max(abs(a - b) for a, b in zip(mine.logprobs, theirs.logprobs, strict=True)) < 1e-3
    (noticed, text), *more = notices[before:]
    assert not more and noticed - struck < within_s
    assert f"the SGLang engine died ({words}); restart {sampler.restarts} of 3" in text
    assert versions == [sampler.version(role) for role in ROLES_AND_BASE[:3]]
    assert not any(is_alive(pid) for pid in pids)


def test_after_the_last_restart_the_run_ends_with_what_the_engine_said(sampler, undisturbed):
    assert sampler.restarts == 3
    results, struck, ended = asyncio.run(play_with_fault(sampler, HOST, signal.SIGSTOP))
    errors = [error for error in results if isinstance(error, Exception)]
    assert 0 < len(errors) <= 32 - ended  # what was on its way when the signal struck may still arrive, and is right
    assert all(isinstance(error, UserError) for error in errors)
    assert all(r in errors or r.token_ids == whole.token_ids for r, whole in zip(results, undisturbed, strict=True))
    assert time.monotonic() - struck < TIMEOUT_S + AT_ONCE_S + 5
    assert len({str(error) for error in errors}) == 1
    assert "no progress" in str(errors[0]) and "after 3 restarts" in str(errors[0])
    assert str(sampler.log) in str(errors[0]) and "process" in Path(sampler.log).read_text()


SCRIPT = """
from tests.support.tiny_models import lab_sampler, lab_with_adapters
sampler = lab_sampler(*lab_with_adapters())
print(*sampler.running_engine().pids, flush=True)
input()
"""


def test_nothing_outlives_a_killed_trainer():
    trainer = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pids = list(map(int, trainer.stdout.readline().split()))
    assert len(pids) == 3 and all(is_alive(pid) for pid in pids)
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in pids)


def test_an_engine_that_cannot_start_says_why(tmp_path):
    sampler = lab_sampler(*lab_with_adapters())
    object.__setattr__(sampler.engine_args, "folder", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"does not start .*its log ends: .*nothing/config.json.*whole log: "):
        sampler.start()


def test_messages_are_read_as_they_were_written_and_bounded():
    def receiver(data):
        position = 0

        def receive(n):
            nonlocal position
            position += n
            return data[position - n : position]

        return receive

    assert read(receiver(pack({"op": "x", "ids": [1, 2]}, b"weights"))) == ({"op": "x", "ids": [1, 2]}, b"weights")
    with pytest.raises(ValueError, match="at most"):
        read(receiver(LENGTHS.pack(MAX_HEADER + 1, 0)))
    with pytest.raises(ValueError, match="not a JSON object"):
        read(receiver(LENGTHS.pack(2, 0) + b"[]"))
