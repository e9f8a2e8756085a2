"""Requests and models for tests of the local sampler, and a full forward pass of the same model as the reference.

Tolerance: both sides compute in float32, in different orders (cache, batch, adapters concatenated). The reference's own
error against float64 is measured in the test; ours may be at most twice that plus FLOOR, 64 float32 roundings at the
size of these logits (below 8).
"""

import asyncio
import random

import peft
import tokenizers
import torch
import transformers

from aslfast.sampler.protocol import SampleRequest

FLOOR = 64 * 8 * torch.finfo(torch.float32).eps / 2
ADAPTERS = ("generator", "grm", "policy")
EOS = "<|end|>"
TEXT = ["the search finds a river and a town", "a question: über 北京 is large", "tool call query stop now"] * 9


def bpe_tokenizer():
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=[EOS], initial_alphabet=alphabet)
    bpe.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS)


def base(kind="qwen2", n_vocab=320, seed=0):
    torch.manual_seed(seed)
    shape = {"vocab_size": n_vocab, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.2}
    if kind == "neox":
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape, use_cache=False, eos_token_id=None))
    shape |= {"num_key_value_heads": 2, "eos_token_id": None, "bos_token_id": None}
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, tie_word_embeddings=kind == "qwen2-tied"))


def adapted(kind="qwen2", dropout=0.5):
    """Three adapters of different rank and scaling; B is random, not zero, so that each changes the model."""
    model = base(kind)
    for rank, name in zip((4, 8, 2), ADAPTERS, strict=True):
        config = peft.LoraConfig(r=rank, lora_alpha=12, lora_dropout=dropout, target_modules="all-linear")
        model = peft.get_peft_model(model, config, name) if name == ADAPTERS[0] else model
        if name != ADAPTERS[0]:
            model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05, generator=generator)
    return model


def reference(model, adapter, ids, temperature):
    """Log-probs [T, V] of each next token by a full forward pass in evaluation mode, in the model's dtype."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            if adapter is None and hasattr(model, "disable_adapter"):
                with model.disable_adapter():
                    logits = model(input_ids=torch.tensor([ids])).logits[0]
            else:
                if adapter:
                    model.set_adapter(adapter)
                logits = model(input_ids=torch.tensor([ids])).logits[0]
        return (logits / (temperature or 1.0)).log_softmax(-1)
    finally:
        model.train(mode)


def error_bound(model, model64, adapter, ids, temperature):
    own = reference(model, adapter, ids, temperature) - reference(model64, adapter, ids, temperature)
    return 2 * own.abs().max().item() + FLOOR


def context(n, seed):
    rng = random.Random(seed)
    return tuple(rng.randrange(1, 320) for _ in range(n))


def run(coroutine):
    return asyncio.run(coroutine)


async def gather(sampler, requests):
    return await asyncio.gather(*map(sampler.generate, requests))


async def converse(sampler, session, adapter, temperature, n_context, n_turns=3, n_new=7):
    """(request, sample) of each turn of a session; a context is the last one, what was sampled and some new tokens."""
    turns, ids = [], context(n_context, seed=n_context)
    for turn in range(n_turns):
        seed = 1000 * n_context + turn
        request = SampleRequest(ids, session, adapter, n_new + n_context % 3, temperature, seed=seed)
        sample = await sampler.generate(request)
        turns.append((request, sample))
        ids = ids + sample.token_ids + context(3 + 5 * turn + n_context % 4, seed=seed)
        for _ in range(n_context % 3):
            await asyncio.sleep(0)  # turns of different sessions drift apart
    return turns


def check_turns(model, model64, turns):
    for request, sample in turns:
        ids, start = list(request.token_ids + sample.token_ids), len(request.token_ids)
        expected = reference(model, request.adapter, ids, request.temperature)[start - 1 : -1]
        bound = error_bound(model, model64, request.adapter, ids, request.temperature)
        for logprob, row, token in zip(sample.logprobs, expected, sample.token_ids, strict=True):
            assert abs(logprob - row[token].item()) <= bound


MIX = [(n, (*ADAPTERS, None)[i % 4], (0.7, 1.0, 0.0)[i % 3]) for i, n in enumerate((1, 5, 9, 40, 2, 33, 70, 17, 6, 90))]


def grouped(questions, adapter, n_new):
    """Six samples of each question at once. n_new: of a question's number and a sample's, its most tokens."""
    return [
        SampleRequest(question, f"q{n}-{i}", adapter, n_new(n, i), 0.9, seed=10 * n + i)
        for n, question in enumerate(questions)
        for i in range(6)
    ]
