"""Ctrl-C and SIGTERM before the first step: one line that says how to go on. Real processes and signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ["--set", "rounds=0", "--set", "data.eval_count=2", "--set", "monitor.judge_probe=0", "--quiet"]
PATIENCE_S = 120


def aslfast(*arguments):
    command = [sys.executable, "-m", "aslfast", "train", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=answer_interrupts
    )


def answer_interrupts():
    """Undo what a shell does to the jobs that it starts in the background, such as this suite: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(process, happened):
    """Wait until it happened in a process that still runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def stopped(process, number):
    os.kill(process.pid, number)
    said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 130 and "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_before_anything_is_written_says_so(tmp_path, number):
    process = aslfast("--recipe", "tiny", "--out", tmp_path / "run", *SMALL)
    until(process, lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())  # while torch is loaded
    assert stopped(process, number) == "aslfast: stopped; nothing is written yet: start again with the same command"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_run_is_set_up_names_the_command_that_goes_on(tmp_path, number):
    run = tmp_path / "run"
    process = aslfast("--recipe", "tiny", "--out", run, *SMALL)
    until(process, (run / "config.toml").exists)
    assert stopped(process, number) == f"aslfast: stopped; go on with: aslfast train --resume {run}"
    process = aslfast("--resume", run, "--quiet")
    assert process.communicate(timeout=PATIENCE_S)[1] == "" and process.returncode == 0
    assert re.search(r'"round": ?0', (run / "rounds.jsonl").read_text())


def test_a_stopped_resume_names_its_command(tmp_path):
    (tmp_path / "config.toml").touch()
    process = aslfast("--resume", tmp_path, "--quiet")
    until(process, lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    assert stopped(process, signal.SIGINT) == f"aslfast: stopped; go on with: aslfast train --resume {tmp_path}"
