"""Small stand-ins for real models: a byte tokenizer, a tiny random model, the lab's base with stirred adapters."""

from dataclasses import replace

import tokenizers
import torch
import transformers

from aslfast.config import load_recipe
from aslfast.data.corpus import Passage
from aslfast.files.shipped import LAB_BASE
from aslfast.models import lora
from aslfast.models.base_model import load_base
from aslfast.trainer.build import build_sampler

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PASSAGES = [
    Passage("a", '"Mira"\nMira was born in Oslo.'),
    Passage("b", '"Oslo"\nOslo lies on the river Aker.'),
    Passage("c", '"Aker"\nThe Aker is short.'),
]


def byte_tokenizer(template: str, control: list[str], tags: list[str], eos: str):
    """One token a byte, no network: control tokens are special, tags are added tokens that are not (as in Qwen2.5)."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in control])
    core.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in tags])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token=control[0], chat_template=template
    )


def tiny_model(tokenizer, seed: int = 0) -> transformers.Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config).eval()


def stir(model, scale: float = 0.05, seed: int = 1) -> None:
    """Gives every adapter's B random weights: fresh ones are zero, and would hide whatever mixes adapters up."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, scale, generator=generator)


def lab_with_adapters():
    """(the lab's base with three adapters, all different from it, its tokenizer)."""
    base, own_tokenizer = load_base(LAB_BASE)
    peft_model = lora.add_adapters(base, rank=16, alpha=32.0, seed=0)
    stir(peft_model, scale=0.01)
    return peft_model, own_tokenizer


def lab_sampler(peft_model, own_tokenizer, notify=lambda _: None, **sampler):
    """An SGLang sampler as a run of the tiny recipe has it; `sampler` are its keys in the recipe."""
    config = load_recipe("tiny")
    settings = replace(config.sampler, kind="sglang", share_base=False, **{"max_running_requests": 64, **sampler})
    return build_sampler(replace(config, sampler=settings), peft_model, own_tokenizer, notify=notify)
