"""A launch takes the tiles of its tensor's card, and of an unknown card what fits into its shared memory."""

from types import SimpleNamespace

import pytest
import torch

from aslfast_kernels import cards


@pytest.fixture
def machine(monkeypatch):
    """Return a machine's devices, capability and shared bytes each, to be filled; torch.cuda tells what they are."""
    devices = []

    def properties(device):
        return SimpleNamespace(shared_memory_per_block_optin=devices[torch.device(device).index][1])

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: devices[torch.device(device).index][0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    return devices


def test_every_device_of_a_machine_gets_its_own_card(machine):
    machine += [((9, 0), 227 * 1024), ((8, 6), 99 * 1024), ((10, 3), 227 * 1024), ((12, 0), 99 * 1024)]
    found = [cards.card_of(torch.device("cuda", i)) for i in range(len(machine))]
    assert found == [cards.CARDS[90], cards.CARDS[86], cards.CARDS[103], cards.CARDS[120]]
    assert [card.half.columns for card in found] == [256, 128, 256, 128]


@pytest.mark.parametrize(("shared", "like"), [(227, 80), (163, 80), (162, 86), (99, 86)])
def test_an_unknown_card_gets_plain_tiles_that_fit(machine, shared, like):
    """As sm_110 (227 KiB), sm_87 (163), and sm_121 (99): no TMA, since nobody compiled for it."""
    machine += [((11, 7), shared * 1024)]
    card = cards.card_of(torch.device("cuda", 0))
    assert card is cards.CARDS[like] and not card.tma and card.shared_bytes <= shared * 1024


def test_a_card_without_room_is_refused_by_name(machine):
    machine += [((7, 5), 64 * 1024)]
    with pytest.raises(RuntimeError, match=r'needs 101376 bytes.*sm_75 has 65536; pass impl="torch"'):
        cards.card_of(torch.device("cuda", 0))


def test_which_launches_read_by_tma():
    """16 bit from sm_90 on; on sm_100 and sm_103 no residual with a softcap, which their compiler does not take."""
    taken = {
        capability: [
            card.reads_by_tma(itemsize, output, softcap)
            for itemsize, output, softcap in [(2, "residual", True), (2, "residual", False), (2, "gradient", True)]
        ]
        for capability, card in cards.CARDS.items()
    }
    never, always, bent = [False] * 3, [True] * 3, [False, True, True]
    assert taken == {80: never, 86: never, 89: never, 90: always, 100: bent, 103: bent, 120: always}
    assert not any(card.reads_by_tma(4, "statistics", False) for card in cards.CARDS.values())


def test_which_launches_tell_the_assembler_how_many_registers_there_are():
    """Left to itself, that of sm_80 to sm_89 takes fewer and spills."""
    told = {capability for capability, card in cards.CARDS.items() if card.options(8).get("maxnreg") == 255}
    assert told == {80, 86, 89}
    assert cards.CARDS[80].options(8, 3) == {"num_warps": 8, "num_stages": 3, "maxnreg": 255}
    assert cards.CARDS[90].options(4) == {"num_warps": 4}
