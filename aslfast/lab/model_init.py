"""The tiny base before training: a Qwen2 of 0.9M parameters, some heads of which look at the previous tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

LOOK_BACK = ((0, (1, 2, 3, 4)), (1, (1,)))  # layer, and how many tokens each of its first heads looks back


def make_model(tokenizer: Any, seed: int) -> Qwen2ForCausalLM:
    """Return a model with tied embeddings of unit variance.

    The final norm starts at d^-0.5, so that logits start near unit scale.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-6,
        initializer_range=0.05, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 1.0)
        model.model.norm.weight.fill_(config.hidden_size**-0.5)
        for layer, shifts in LOOK_BACK:
            for head, shift in enumerate(shifts):
                look_back(model, layer, head, shift)
    return model


def look_back(model: Qwen2ForCausalLM, layer: int, head: int, shift: int, gain: float = 7.0) -> None:
    """Set a head's query and key biases so that it starts out attending `shift` tokens back.

    Rotary embeddings turn a constant query q and key k into sum_f a_f b_f cos(w_f (i - j) + phase_f); with the key's
    phase 0 and the query's turned by -w_f * shift this peaks at i - j = shift.
    """
    attention: Any = model.model.layers[layer].self_attn
    config: Any = model.config
    size = attention.head_dim
    theta = config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta
    w_f = theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    own = slice(head * size, (head + 1) * size)
    attention.k_proj.bias.data[own] = gain * torch.cat([torch.ones_like(w_f), torch.zeros_like(w_f)])
    attention.q_proj.bias.data[own] = gain * torch.cat([torch.cos(w_f * shift), -torch.sin(w_f * shift)])
