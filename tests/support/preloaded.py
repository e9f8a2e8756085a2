"""What the fork server loads once, so that the processes forked from it start at once: torch, and what transformers and
PEFT load when they are first used."""

import torch

from aslfast.config import load_recipe
from aslfast.models import lora
from aslfast.trainer import build, train  # noqa: F401

torch.set_num_threads(1)  # a thread pool does not survive a fork
lora.add_adapters(build.load_base_model(load_recipe("tiny"))[0], 1, 1.0, 0)
