"""How many floating-point operations a learner's step cannot do without, counted by formula.

    frozen base     forward 2 N, backward 2 N (to the activations; no gradient of the weights), per token
    one adapter     forward 2 A, backward 4 A (to the activations and of the weights), per token
    head            4 D V per loss token: logits, and the gradient to the hidden state
    attention       forward 4 H d, backward 8 H d, per layer and pair of a query and a key that it attends to

N and A: matrix weights of the layers' base and of one adapter; a product of [m, k] and [k, n] is 2 m k n. Left out:
everything but matrix products, and recomputation. Overcounted: the first layer's backward to its input.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel


def step_flops(model: PeftModel, tokens: int, loss_tokens: int, pairs: int, role: str) -> float:
    """Return the FLOPs of one step over `tokens` tokens through the model and `pairs` attention pairs."""
    base: Any = model.get_base_model()
    config, decoder = base.config, base.get_decoder()
    weights = [(name, p.numel()) for name, p in decoder.layers.named_parameters() if p.dim() == 2]
    adapter = sum(n for name, n in weights if f".{role}." in name)
    frozen = sum(n for name, n in weights if "lora_" not in name)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * head_dim * pairs
    head = 4 * config.hidden_size * config.vocab_size * loss_tokens
    return tokens * (4 * frozen + 6 * adapter) + attention + head
