"""What an SGLang engine is started with, and the engine's own arguments that follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPARE_TOKENS = 8  # SGLang keeps a position or two of a context for itself
CPU_KV_BYTES = 4 << 30  # most memory of the key/value pool on a CPU
EXPORT = "aslfast.sampler.sglang.shared_weights.export_handles"  # runs in the engine, over its model


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine. Sent to the engine host as JSON."""

    folder: str  # of the base model
    device: str  # "cpu" or "cuda"
    dtype: str
    max_running_requests: int  # requests in one batch
    max_context: int  # tokens
    lora_rank: int = 0  # 0: no adapters
    lora_targets: tuple[str, ...] = ()
    max_adapters: int = 3
    radix_cache: bool = True
    deterministic: bool = False
    share_base: bool = False
    gpu_memory: float = 0.5  # share of the GPU's memory for weights and the key/value pool
    tensor_parallel: int = 1  # GPUs that hold the model between them, or processes on a CPU
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; none: those that the trainer sees


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """The keyword arguments of `sglang.Engine`. It gets no tokenizer: token ids in, token ids out."""
    arguments: dict[str, Any] = {
        "model_path": settings.folder,
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "dtype": settings.dtype,
        "device": settings.device,
        "context_length": settings.max_context + SPARE_TOKENS,
        "max_running_requests": settings.max_running_requests,
        "disable_radix_cache": not settings.radix_cache,
        "sampling_backend": "pytorch",  # the seeded one of engine_scheduler
        "grammar_backend": "none",
        "log_level": "warning",
        "sleep_on_idle": True,  # else its loop takes a core from the learner
        "random_seed": 0,
        "tp_size": settings.tensor_parallel,
        **(_lora_arguments(settings) if settings.lora_rank else {}),
        **(_cpu_arguments(settings) if settings.device == "cpu" else {"mem_fraction_static": settings.gpu_memory}),
    }
    if settings.share_base:
        arguments["custom_weight_loader"] = [EXPORT]
    if settings.deterministic:
        arguments["enable_deterministic_inference"] = True
    return arguments


def _lora_arguments(settings: EngineSettings) -> dict[str, Any]:
    return {
        "enable_lora": True,
        "max_lora_rank": settings.lora_rank,
        "lora_target_modules": list(settings.lora_targets),
        "max_loras_per_batch": settings.max_adapters + 1,  # the base counts as one
    }


def _cpu_arguments(settings: EngineSettings) -> dict[str, Any]:
    wanted = settings.max_running_requests * (settings.max_context + SPARE_TOKENS)
    return {
        "attention_backend": "torch_native",
        "lora_backend": "torch_native",
        "disable_cuda_graph": True,
        "disable_overlap_schedule": True,
        "mem_fraction_static": 0.1,
        "max_total_tokens": max(settings.max_context + SPARE_TOKENS, min(wanted, CPU_KV_BYTES // _kv_bytes(settings))),
    }


def _kv_bytes(settings: EngineSettings) -> int:
    """Of one token, in all layers."""
    config = json.loads((Path(settings.folder) / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or config["hidden_size"] // heads
    return config["num_hidden_layers"] * 2 * kv_heads * size * (4 if settings.dtype == "float32" else 2)
