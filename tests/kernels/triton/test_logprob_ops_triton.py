"""tests/test_logprob_ops.py with the Triton implementation."""

import pytest

from tests.kernels.test_logprob_ops import *  # noqa: F403
from tests.kernels.triton.interpreter import DEVICE


@pytest.fixture
def impl():
    return "triton"


@pytest.fixture
def device():
    return DEVICE
