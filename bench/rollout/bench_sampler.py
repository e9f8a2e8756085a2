"""Sampled tokens per second: LocalSampler against `model.generate`, the same prompts in the same run.

    python -m bench.rollout.bench_sampler --out runs/bench_sampler.json

A randomly initialised Qwen2 samples `--new` tokens for `--sequences` prompts. Both sides sample from the full softmax
at temperature 1, without stop texts. `generate` returns no log-probs and keeps nothing for a next turn; LocalSampler
does both.
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

from aslfast.config.roles import ROLES
from aslfast.sampler.local.sampler import LocalSampler
from aslfast.sampler.protocol import SampleRequest
from bench.shared.results import write_result
from bench.shared.stamp import ROOT, quantiles, stamp, versions_of

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}


def build_model(args: argparse.Namespace) -> peft.PeftModel:
    """Return a random base with three adapters."""
    torch.manual_seed(args.seed)
    config = transformers.Qwen2Config(**SHAPE, vocab_size=args.vocab, intermediate_size=384, eos_token_id=None)
    base: Any = transformers.Qwen2ForCausalLM(config)
    lora = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", init_lora_weights=False)
    base = base.to(args.device, getattr(torch, args.dtype)).eval()
    model = peft.PeftModel(base, lora, adapter_name=ROLES[0])
    for role in ROLES[1:]:
        model.add_adapter(role, lora)
    model.set_adapter("policy")
    return model.eval()


def build_tokenizer(vocab: int) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of `vocab` words."""
    words = {f"w{i}": i for i in range(vocab)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model))


def sample_local(sampler: LocalSampler, prompts: list[list[int]], adapters: Sequence[str | None], n_new: int) -> None:
    """Sample `n_new` tokens for every prompt, all at once."""

    async def sample_all() -> None:
        numbered = enumerate(zip(prompts, adapters, strict=True))
        requests = [SampleRequest(tuple(p), f"s{i}", a, n_new, seed=i) for i, (p, a) in numbered]
        samples = await asyncio.gather(*map(sampler.generate, requests))
        assert all(len(sample.token_ids) == n_new for sample in samples)
        for request in requests:
            sampler.release(request.session)

    asyncio.run(sample_all())


def generate(model: peft.PeftModel, prompts: list[list[int]], n_new: int) -> None:
    """Sample `n_new` tokens for every prompt with `model.generate`, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "pad_token_id": 0}
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n_new, **sampling)
    assert out.shape[1] == width + n_new


def sides_of(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return every side by name. All adapters are loaded; `generate` serves one at a time, so it has no `mixed`."""
    model, rng, n = build_model(args), random.Random(args.seed), args.sequences
    sampler = LocalSampler(model, build_tokenizer(args.vocab), max_running_requests=n)
    lengths = range(args.prompt - args.prompt // 8, args.prompt + args.prompt // 8 + 1)
    prompts = [[rng.randrange(args.vocab) for _ in range(rng.choice(lengths))] for _ in range(n)]
    mixed = [ROLES[i % len(ROLES)] for i in range(n)]

    def generate_without_adapter() -> None:
        with model.disable_adapter():
            generate(model, prompts, args.new)

    return {
        "local, adapter": lambda: sample_local(sampler, prompts, ["policy"] * n, args.new),
        "generate, adapter": lambda: generate(model, prompts, args.new),
        "local, base": lambda: sample_local(sampler, prompts, [None] * n, args.new),
        "generate, base": generate_without_adapter,
        "local, mixed": lambda: sample_local(sampler, prompts, mixed, args.new),
    }


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return tokens per second of each side: quantiles over interleaved repeats, after one to warm up."""
    sides = sides_of(args)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()  # ends in tolist(), so a device has finished
            if repeat:
                rates[name].append(args.sequences * args.new / (time.perf_counter() - start))
    return {name: quantiles(values) for name, values in rates.items()}


def stamped(args: argparse.Namespace) -> dict[str, Any]:
    """Return the result without its measurements."""
    gpu = {"device": torch.cuda.get_device_name()} if args.device.startswith("cuda") else {}
    shape = {key: getattr(args, key) for key in ("sequences", "prompt", "new", "vocab", "rank", "dtype")}
    return {
        **stamp("sampler", args.allow_dirty),
        **gpu,
        "unit": "sampled tokens per second",
        "threads": torch.get_num_threads(),
        "versions": versions_of(torch, transformers, peft),
        "shape": {**SHAPE, **shape},
        "seed": args.seed,
        "n": args.repeats,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts = {
        "sequences": 64, "prompt": 60, "new": 40, "vocab": 2048, "rank": 16, "repeats": 7, "seed": 0, "threads": 2
    }  # fmt: skip
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_sampler.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {**stamped(args), "tokens_per_s": measure(args)}
    write_result(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
