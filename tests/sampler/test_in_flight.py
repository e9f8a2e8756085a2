"""What a sampler has at work at once: counted while a request is out, whoever answers it and whether it fails."""

import pytest

from aslfast.sampler import in_flight
from aslfast.sampler.in_flight import InFlight


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    at = [0.0]
    monkeypatch.setattr(in_flight.time, "perf_counter", lambda: at[0])
    return at


def test_the_most_at_once_and_the_mean_while_there_is_any(clock):
    meter = InFlight(_since=0.0)
    clock[0] = 5.0  # idle
    with meter.running(100):
        clock[0] += 1
        with meter.running(40), meter.running(60):
            clock[0] += 3
        clock[0] += 2
    clock[0] += 7  # idle
    assert meter.take() == {"requests": 3, "tokens": 200, "mean_requests": (1 * 1 + 3 * 3 + 1 * 2) / 6}


def test_each_call_begins_anew_with_what_still_runs(clock):
    meter = InFlight(_since=0.0)
    with meter.running(10):
        clock[0] += 1
        assert meter.take()["requests"] == 1
        clock[0] += 1
        assert meter.take() == {"requests": 1, "tokens": 10, "mean_requests": 1.0}
    assert meter.take() == {"requests": 1, "tokens": 10, "mean_requests": 0.0}
    assert meter.take() == {"requests": 0, "tokens": 0, "mean_requests": 0.0}


def test_a_request_that_fails_is_no_longer_in_flight():
    meter = InFlight()
    with pytest.raises(ZeroDivisionError), meter.running(10):
        raise ZeroDivisionError
    assert (meter.requests, meter.tokens) == (0, 0)
