"""The implementation that a session tests, "torch" or "triton", and the device it runs on.

Triton has sessions of its own, which test_triton_kernels.py starts with KERNELS_IMPL=triton: whether its compiler or
its interpreter works is settled once per process. Only there tests/kernels/triton is collected, and tests that take
the fixture `impl` get "triton".
"""

import os

import pytest
import torch

from tests.support.kernels import triton_interpreter

IMPL = os.environ.get("KERNELS_IMPL", "torch")

if IMPL == "torch":
    collect_ignore = ["triton"]
elif triton_interpreter.INTERPRETED:
    torch.set_num_threads(1)
    triton_interpreter.patch()


@pytest.fixture
def impl():
    return IMPL


@pytest.fixture
def device():
    return triton_interpreter.DEVICE if IMPL == "triton" else "cpu"
