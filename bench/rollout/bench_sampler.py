"""Sampled tokens per second: LocalSampler against `model.generate`, the same rows in the same run.

    python -m bench.rollout.bench_sampler --out runs/bench_sampler.json

A randomly initialised Qwen2 samples `--new` tokens for `--rows` prompts. Both sides sample from the full softmax at
temperature 1, no stop. `generate` returns no log-probs and keeps nothing for a next turn; LocalSampler does both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import tokenizers
import torch
import transformers

from aslfast.core import ROLES
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from bench.shared.stamp import ROOT, quantiles, stamp

SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}


def build(args: argparse.Namespace) -> Any:
    torch.manual_seed(args.seed)
    config = transformers.Qwen2Config(**SHAPE, vocab_size=args.vocab, intermediate_size=384, eos_token_id=None)
    model = transformers.Qwen2ForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval()
    lora = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(model, lora, adapter_name=ROLES[0])
    for role in ROLES[1:]:
        model.add_adapter(role, lora)
    model.set_adapter("policy")
    return model.eval()


def tokenizer_of(vocab: int) -> Any:
    words = {f"w{i}": i for i in range(vocab)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model))


def local_run(sampler: LocalSampler, prompts: list[list[int]], adapters: Sequence[str | None], n_new: int) -> None:
    async def all_rows() -> None:
        rows = enumerate(zip(prompts, adapters, strict=True))
        requests = [SampleRequest(tuple(p), f"s{i}", a, n_new, seed=i) for i, (p, a) in rows]
        samples = await asyncio.gather(*map(sampler.generate, requests))
        assert all(len(sample.token_ids) == n_new for sample in samples)
        for request in requests:
            sampler.release(request.session)

    asyncio.run(all_rows())


def generate_run(model: Any, prompts: list[list[int]], n_new: int) -> None:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "pad_token_id": 0}
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n_new, **sampling)
    assert out.shape[1] == width + n_new


def sides(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Every side, by name. All three adapters are loaded; `generate` serves one at a time, so it has no `mixed`."""
    model, rng = build(args), random.Random(args.seed)
    sampler = LocalSampler(model, tokenizer_of(args.vocab), max_running_requests=args.rows)
    span = range(args.prompt - args.prompt // 8, args.prompt + args.prompt // 8 + 1)
    prompts = [[rng.randrange(args.vocab) for _ in range(rng.choice(span))] for _ in range(args.rows)]
    mixed = [ROLES[i % len(ROLES)] for i in range(args.rows)]

    def bare_generate() -> None:
        with model.disable_adapter():
            generate_run(model, prompts, args.new)

    return {
        "local, adapter": lambda: local_run(sampler, prompts, ["policy"] * args.rows, args.new),
        "generate, adapter": lambda: generate_run(model, prompts, args.new),
        "local, base": lambda: local_run(sampler, prompts, [None] * args.rows, args.new),
        "generate, base": bare_generate,
        "local, mixed": lambda: local_run(sampler, prompts, mixed, args.new),
    }


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Tokens per second of each side: median, p20 and p80 over interleaved repeats after one warm-up each."""
    runs = sides(args)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()  # ends in tolist(), so a device has finished
            if repeat:
                rates[name].append(args.rows * args.new / (time.perf_counter() - start))
    return {name: quantiles(values) for name, values in rates.items()}


def stamped(args: argparse.Namespace) -> dict[str, Any]:
    gpu = {"device": torch.cuda.get_device_name()} if args.device.startswith("cuda") else {}
    return {
        **stamp("sampler", args.allow_dirty),
        **gpu,
        "unit": "sampled tokens per second",
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        "shape": {**SHAPE, **{k: getattr(args, k) for k in ("rows", "prompt", "new", "vocab", "rank", "dtype")}},
        "seed": args.seed,
        "n": args.repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts = {"rows": 64, "prompt": 60, "new": 40, "vocab": 2048, "rank": 16, "repeats": 7, "seed": 0, "threads": 2}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_sampler.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {**stamped(args), "tokens_per_s": measure(args)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
