"""What runs inside the engine's own processes: seeded sampling, our stop texts, and the CPU shim.

SGLang 0.5.21 draws from one stream for the whole batch unless deterministic inference is on, which a CPU does not
offer. Here a token depends on its request's seed, its position and its distribution alone, so a request that is issued
again after a crash, or preempted, goes on as it would have.
"""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aslfast.sampler.sglang import cpu_shim
from aslfast.sampler.stop_strings import StopFinder, TokenPieces

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch

PR_SET_PDEATHSIG = 1  # of prctl


def run_scheduler(server_args: Any, *args: Any, **options: Any) -> None:
    """Run SGLang's scheduler process with our parts in it."""
    die_with_parent()
    from sglang.srt.managers.scheduler import run_scheduler_process

    if server_args.device == "cpu":
        cpu_shim.install_backends()
    install_seeds()
    install_stops(Path(server_args.model_path))
    run_scheduler_process(server_args, *args, **options)


def run_detokenizer(*_: object) -> None:
    """Sleep in place of SGLang's detokenizer process, which must live but has no work without a tokenizer."""
    die_with_parent()
    while True:
        signal.pause()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, even if this one is busy or stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prepare(device: str, processes: int) -> None:
    """Prepare a process of an engine for the import of SGLang: call this before it."""
    if device == "cpu":
        cpu_shim.install(processes)


def install_seeds() -> None:
    """Give every batch its requests' seeds, and draw by them."""
    from sglang.srt.layers import sampler
    from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

    batch_info: Any = SamplingBatchInfo  # a class whose method is replaced
    original = batch_info.from_schedule_batch.__func__

    def with_seeds(cls: type[SamplingBatchInfo], batch: ScheduleBatch, vocab_size: int) -> SamplingBatchInfo:
        info = original(cls, batch, vocab_size)
        if info.sampling_seed is None:  # deterministic inference has set them
            seeds = [req.sampling_params.sampling_seed or 0 for req in batch.reqs]
            info.sampling_seed = torch.tensor(seeds, dtype=torch.int64).to(info.device, non_blocking=True)
        return info

    class SeededSampler(sampler.Sampler):
        def _sample_from_probs(
            self, probs: torch.Tensor, sampling_info: SamplingBatchInfo, positions: torch.Tensor, *_: object
        ) -> tuple[torch.Tensor, None]:
            assert sampling_info.sampling_seed is not None  # set by with_seeds
            return draw(probs, sampling_info.top_ks, sampling_info.sampling_seed, positions), None

    batch_info.from_schedule_batch = classmethod(with_seeds)
    sampler.register_sampler_backend("pytorch", SeededSampler)


def draw(probs_BV: torch.Tensor, top_k_B: torch.Tensor, seed_B: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    """Return token ids int32 [B]: the first whose cumulative probability exceeds the uniform number of its sequence.

    Summed in float64, as in local/sampling.py and for its reason. top_k 1 is greedy.
    """
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    target_B1 = uniform(seed_B, position_B)[:, None] * cumulative_BV[:, -1:]
    token_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0].clamp_(max=probs_BV.shape[1] - 1)
    return torch.where(top_k_B <= 1, probs_BV.argmax(-1), token_B).to(torch.int32)


def uniform(seed_B: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    """Return the position-th number in [0, 1), float64, of each seed's SplitMix64 stream.

    Steele et al., OOPSLA 2014.
    """
    z_B = seed_B + position_B.to(torch.int64) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z_B = (z_B ^ _shifted(z_B, shift)) * _signed(factor)
    return _shifted(z_B, 11).to(torch.float64) * 2.0**-53


def _signed(word: int) -> int:
    """Return a 64-bit word as torch's int64 holds it; its arithmetic wraps around."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(z_B: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right by `bits`, filling with zeros; torch's own shift repeats the sign."""
    return (z_B >> bits) & ((1 << (64 - bits)) - 1)


def install_stops(folder: Path) -> None:
    """Find stop texts as the local sampler does, in the text of the model's own tokenizer.json.

    SGLang's own check decodes as many last tokens as the stop text usually has, so it misses one that is spelled in
    smaller pieces.
    """
    from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR, Req

    from aslfast.models.tokenizer import load_tokenizer  # transformers looks for torchvision once, after `prepare`

    pieces = TokenPieces(load_tokenizer(folder))

    def found(self: Req, new_accepted_len: int = 1) -> bool:
        stop: Any = (self.sampling_params.custom_params or {}).get("stop")  # its own `stop` wants its own tokenizer
        if not stop:
            return False
        finder = vars(self).get("aslfast_stops")
        if finder is None:
            finder = vars(self)["aslfast_stops"] = StopFinder(tuple(stop), pieces)
        if not finder.found(list(self.output_ids[-finder.window :])):
            return False
        self.finished_reason, self.finished_len = FINISH_MATCHED_STR(matched=stop[0]), len(self.output_ids)
        return True

    assert callable(Req._check_str_based_finish)  # the method replaced must exist
    Req._check_str_based_finish = found
