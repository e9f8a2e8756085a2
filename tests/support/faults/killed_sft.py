"""Fine-tunings that kill themselves, in processes of their own."""

import itertools
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from aslfast.trainer.sft.folder import START
from aslfast.trainer.sft.run import SftObserver, resume_sft, sft
from aslfast.trainer.sft.settings import SftConfig

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


@dataclass
class Counted(SftObserver):
    """Counts the steps that it hears of."""

    steps: int = 0

    def step(self, line, tokens):
        self.steps += 1


def go_sft(config: SftConfig, out: Path, die_before: int = 0) -> None:
    """Start it, or resume it where it has begun; save after every step.

    With `die_before` it kills itself before its so-many-th operation on a file in its folder.
    """
    left = itertools.count(die_before - 1, -1)

    def seen(event: str, args: tuple) -> None:
        if event in FILE_EVENTS and str(args[0]).startswith(f"{out}/") and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    if die_before:
        sys.addaudithook(seen)
    if (out / START).exists():
        resume_sft(out, SftObserver(), save_every_s=0.0)
    else:
        sft(config, out, SftObserver(), save_every_s=0.0)
