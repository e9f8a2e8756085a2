"""What an SGLang engine is started with, and SGLang's own keyword arguments that follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SPARE_TOKENS = 8  # SGLang keeps a position or two of a context for itself
CPU_KV_BYTES = 4 << 30  # most memory of the KV pool on a CPU
EXPORT = "aslfast.sampler.sglang.weight_export.export_handles"  # runs in the engine, over its model


@dataclass(frozen=True, slots=True)
class EngineArgs:
    """One engine. Sent to the engine server as JSON."""

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
    gpu_memory: float = 0.5  # fraction of the GPU's memory for weights and the KV pool
    tensor_parallel: int = 1  # GPUs that hold the model between them, or processes on a CPU
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; none: those that the trainer sees


def sglang_arguments(args: EngineArgs) -> dict[str, object]:
    """Return the keyword arguments of `sglang.Engine`. It gets no tokenizer: token ids in, token ids out."""
    arguments: dict[str, object] = {
        "model_path": args.folder,
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "dtype": args.dtype,
        "device": args.device,
        "context_length": args.max_context + SPARE_TOKENS,
        "max_running_requests": args.max_running_requests,
        "disable_radix_cache": not args.radix_cache,
        "sampling_backend": "pytorch",  # the seeded one of scheduler_patches
        "grammar_backend": "none",
        "log_level": "warning",
        "sleep_on_idle": True,  # else its loop takes a core from the learner
        "random_seed": 0,
        "tp_size": args.tensor_parallel,
        **(_lora_arguments(args) if args.lora_rank else {}),
        **(_cpu_arguments(args) if args.device == "cpu" else {"mem_fraction_static": args.gpu_memory}),
    }
    if args.share_base:
        arguments["custom_weight_loader"] = [EXPORT]
    if args.deterministic:
        arguments["enable_deterministic_inference"] = True
    return arguments


def _lora_arguments(args: EngineArgs) -> dict[str, object]:
    return {
        "enable_lora": True,
        "max_lora_rank": args.lora_rank,
        "lora_target_modules": list(args.lora_targets),
        "max_loras_per_batch": args.max_adapters + 1,  # the base counts as one
    }


def _cpu_arguments(args: EngineArgs) -> dict[str, object]:
    wanted = args.max_running_requests * (args.max_context + SPARE_TOKENS)
    return {
        "attention_backend": "torch_native",
        "lora_backend": "torch_native",
        "disable_cuda_graph": True,
        "disable_overlap_schedule": True,
        "mem_fraction_static": 0.1,
        "max_total_tokens": max(args.max_context + SPARE_TOKENS, min(wanted, CPU_KV_BYTES // _kv_bytes(args))),
    }


def _kv_bytes(args: EngineArgs) -> int:
    """Return the bytes that one token's keys and values take in all layers."""
    config = json.loads((Path(args.folder) / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or config["hidden_size"] // heads
    return config["num_hidden_layers"] * 2 * kv_heads * size * (4 if args.dtype == "float32" else 2)
