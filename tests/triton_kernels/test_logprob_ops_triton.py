"""tests/test_logprob_ops.py with the Triton implementation."""

import pytest
from interpreter import DEVICE
from test_logprob_ops import *  # noqa: F403


@pytest.fixture
def impl():
    return "triton"


@pytest.fixture
def device():
    return DEVICE
