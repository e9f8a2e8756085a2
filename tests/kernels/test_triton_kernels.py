"""Run the Triton kernels' tests in processes in which Triton works: its interpreter, or a GPU.

By hand: KERNELS_IMPL=triton TRITON_INTERPRET=1 pytest --confcutdir=tests/kernels tests/kernels/triton
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent
LOGPROBS = [*sorted(FOLDER.glob("triton/test_logprob*.py")), FOLDER / "test_logprob_ops.py"]
LOGPROBS.append(FOLDER / "test_logprob_temperatures.py")
OTHERS = sorted({*FOLDER.glob("triton/test_*.py")} - {*LOGPROBS})

pytest.importorskip("triton")


@pytest.mark.parametrize("files", [LOGPROBS, OTHERS], ids=["logprobs", "others"])
def test_in_a_process_of_their_own(files):
    """Two processes of about one length. The suite's conftest is cut off: it loads what kernels do not need."""
    chosen = {"KERNELS_IMPL": "triton"} | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", f"--confcutdir={FOLDER}", *map(str, files)]
    done = subprocess.run(command, cwd=FOLDER.parents[1], env=os.environ | chosen, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
