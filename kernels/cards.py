"""What a launch must know of a card: one table by compute capability, and the choice from it.

`python -m aslfast_kernels.compile_report --arch all` compiles every configuration of this table and fails on a
compiler error, a register spill and shared memory beyond the card's. Which tiles are fastest is not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

KIB = 1024


class Tile(NamedTuple):
    """A tile of the head's product, and the warps and the stages of loads that work on it."""

    rows: int  # tokens
    columns: int  # of the vocabulary
    depth: int  # of the hidden size, a step
    warps: int
    stages: int

    def constexprs(self) -> dict[str, Any]:
        """Return the tile's sizes under the kernel's names."""
        return {"BLOCK_T": self.rows, "BLOCK_V": self.columns, "BLOCK_D": self.depth}


@dataclass(frozen=True)
class Card:
    """One compute capability. TMA: bulk copies of tiles by descriptors, of 16-bit numbers."""

    shared_bytes: int  # of one block, at most
    half: Tile  # 16 bit, on tensor cores
    single: Tile  # 32 bit, on the plain float units
    tma: bool = False
    tma_bends: bool = True  # whether the compiler takes a residual with a softcap by TMA
    registers: int | None = None  # of a thread, as the assembler is told; None: as it thinks best

    def tile(self, itemsize: int) -> Tile:
        """Return the tile for numbers of that many bytes."""
        return self.half if itemsize == 2 else self.single

    def options(self, warps: int, stages: int | None = None) -> dict[str, Any]:
        """Return the options of a launch of that many warps a program."""
        registers = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": warps} | ({} if stages is None else {"num_stages": stages}) | registers

    def reads_by_tma(self, itemsize: int, output: str, softcap: bool) -> bool:
        """Return whether a launch of the head with this output takes its tiles by TMA."""
        return self.tma and itemsize == 2 and (self.tma_bends or not (softcap and output == "residual"))


# wgmma m64n256 for two groups of four warps (Hopper), or one tcgen05 product into tensor memory (Blackwell): four
# stages of 48 KiB and the staging of one slice of the output are 208 KiB.
_WIDE = Tile(128, 256, 64, warps=8, stages=4)
_SQUARE = Tile(128, 128, 64, warps=8, stages=3)  # mma.sync: 64 to 72 KiB; 128 x 256 spills
_SINGLE = Tile(64, 64, 32, warps=8, stages=2)
_MOST_REGISTERS = (
    255  # left to itself, the assembler of sm_80 to sm_89 stops at 80 or 96, for more programs, and spills
)

# TritonNvidiaGPUOptimizeTMemLayouts of triton 3.7.1 ends in an error for a residual with a softcap by TMA.
_BLACKWELL = Card(227 * KIB, _WIDE, _SINGLE, tma=True, tma_bends=False)
_99_KIB = Card(99 * KIB, _SQUARE, _SINGLE, registers=_MOST_REGISTERS)
CARDS = {
    80: Card(163 * KIB, _SQUARE._replace(stages=4), _SINGLE, registers=_MOST_REGISTERS),  # A100
    86: _99_KIB,  # RTX 30, A10
    89: _99_KIB,  # RTX 40, L4, L40S
    90: Card(227 * KIB, _WIDE, _SINGLE, tma=True),  # H100, H200
    100: _BLACKWELL,  # B200
    103: _BLACKWELL,  # B300
    120: Card(99 * KIB, _SQUARE, _SINGLE, tma=True),  # RTX 50
}
_PLAIN = (CARDS[80], CARDS[86])  # for a capability that the table lacks: mma.sync and no TMA run on every card
INTERPRETED = CARDS[90]  # what Triton's interpreter plays


def card_of(device: torch.device) -> Card:
    """Return the device's card; one that the table lacks gets the largest plain tiles its shared memory has room for.

    Raises RuntimeError where it has room for none.
    """
    if device.type != "cuda":
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return CARDS.get(10 * major + minor) or _plain_card(major, minor, _shared_bytes(device))


def _plain_card(major: int, minor: int, shared_bytes: int) -> Card:
    for card in _PLAIN:
        if card.shared_bytes <= shared_bytes:
            return card
    least = f"{_PLAIN[-1].shared_bytes} bytes of shared memory a block"
    raise RuntimeError(f'impl: "triton" needs {least}, sm_{major}{minor} has {shared_bytes}; pass impl="torch"')


def _shared_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
