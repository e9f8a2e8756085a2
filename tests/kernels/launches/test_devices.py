"""Launches and counters follow the tensors' device and stream: by fakes of torch.cuda, where no GPU is."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from aslfast_kernels import grid
from aslfast_kernels.logprobs import dispatch


@pytest.fixture
def machine(monkeypatch):
    """Return two GPUs' state: the current device, each one's current stream, and whether a graph is being captured."""
    state = SimpleNamespace(current=0, streams={0: 100, 1: 200}, capturing=False)
    zeros = torch.zeros

    @contextmanager
    def device_of(tensor):
        before, state.current = state.current, tensor.device.index
        yield
        state.current = before

    def stream_of(device):
        return SimpleNamespace(cuda_stream=state.streams[device.index])

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(torch.cuda, "current_stream", stream_of)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device, **options: zeros(*sizes, **options))
    grid._counters_of.cache_clear()
    yield state
    grid._counters_of.cache_clear()


def test_a_launch_is_made_on_the_tensors_device(machine):
    """And the device that was current is so again afterwards."""
    tensor = SimpleNamespace(device=torch.device("cuda", 1))
    with dispatch.exact_launches(tensor):
        assert machine.current == 1
        assert not torch.is_autocast_enabled("cuda")
    assert machine.current == 0


def test_every_stream_of_every_device_has_counters_of_its_own(machine):
    """Launches of two streams may overlap; of one they follow each other and share a pair."""
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    pairs = [grid.counters(first), grid.counters(second)]
    machine.streams[1] = 201
    pairs.append(grid.counters(second))
    machine.streams = {0: 200, 1: 200}  # handles are a device's own: 200 of device 0 is another stream
    pairs.append(grid.counters(first))
    assert len({pair.data_ptr() for pair in pairs}) == 4
    assert grid.counters(second) is pairs[1]
    assert all(pair.tolist() == [0, 0] for pair in pairs)


def test_a_graph_under_capture_has_counters_of_its_own(machine):
    """Every replay zeroes them; those of the stream stay the stream's."""
    device = torch.device("cuda", 0)
    of_stream, machine.capturing = grid.counters(device), True
    captured = [grid.counters(device), grid.counters(device)]
    assert len({pair.data_ptr() for pair in (of_stream, *captured)}) == 3
    machine.capturing = False
    assert grid.counters(device) is of_stream


def test_waiting_programs_are_as_many_as_the_devices_multiprocessors(monkeypatch):
    """More would wait for a turn that never comes."""
    sizes = {0: 132, 1: 20}
    properties = lambda device: SimpleNamespace(multi_processor_count=sizes[device.index])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    counts = [grid.count_programs(torch.device("cuda", i), 1000, waits) for i in (0, 1) for waits in (True, False)]
    assert counts == [132, 264, 20, 40]
    assert grid.count_programs(torch.device("cuda", 0), 3, True) == 3
