"""The causal language models of transformers, each as small as it can be made, with random weights in float32."""

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

VOCABULARY = 99
# a model takes those of these settings that its configuration has
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_shared_experts": 1, "n_shared_experts": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "rotary_dim": 8, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48,
    "n_positions": 128, "n_ctx": 128, "d_model": 32, "ffn_dim": 48, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48, "num_layers": 2, "num_heads": 4, "n_layers": 2, "n_heads": 4, "embed_dim": 32,
    "word_embed_proj_dim": 32, "hidden_dim": 48, "embedding_size": 32, "emb_dim": 32,
    "dff": 48, "d_inner": 48, "pad_token_id": 0,
}  # fmt: skip
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
# what these need besides
MORE = {
    "granite": {"logits_scaling": 8.0}, "granitemoe": {"logits_scaling": 6.0}, "hyperclovax": {"logits_scaling": 0.25},
    "granitemoeshared": {"logits_scaling": 0.5}, "stablelm": {"use_qkv_bias": True},
    "phi3": {"sliding_window": 96}, "mistral": {"sliding_window": 64}, "gemma2": {"sliding_window": 96},
}  # fmt: skip
# Left out: too big at any setting, made of several models, or in need of packages or of settings of their own.
ARCHITECTURES = [
    "afmoe", "apertus", "arcee", "aria_text", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus",
    "biogpt", "bitnet", "blenderbot", "blenderbot-small", "bloom", "camembert", "codegen", "cohere", "cohere2",
    "cohere2_moe", "ctrl", "data2vec-text", "deepseek_v2", "deepseek_v3", "deepseek_v4", "diffllama", "doge",
    "dots1", "electra", "ernie", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "falcon_mamba",
    "flex_olmo", "fuyu", "gemma", "gemma2", "gemma3_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe",
    "glm4_moe_lite", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj",
    "granite", "granitemoe", "granitemoeshared", "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe",
    "hy_v3", "hyperclovax", "jais2", "jetmoe", "laguna", "lfm2", "llama", "llama4_text", "mamba", "marian", "mbart",
    "megatron-bert", "mellum", "minimax", "minimax_m2", "minimax_m3_vl_text", "ministral", "ministral3", "mistral",
    "mixtral", "moshi", "mpt", "mvp", "nanochat", "nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid",
    "olmoe", "openai-gpt", "opt", "pegasus", "persimmon", "phi", "phi3", "phimoe", "plbart", "prophetnet", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "rembert", "roberta", "roberta-prelayernorm", "roformer", "rwkv", "seed_oss",
    "smollm3", "solar_open", "stablelm", "starcoder2", "trocr", "vaultgemma", "whisper", "xglm", "xlm",
    "xlm-roberta", "xlm-roberta-xl", "xlnet", "youtu",
]  # fmt: skip


def tiny_architecture(kind: str, **more: object) -> PreTrainedModel:
    """Return a random model of this model_type."""
    made = CONFIG_MAPPING[kind]
    known = made().to_dict()
    settings = {key: value for key, value in SIZES.items() if key in known} | NO_TOKENS | MORE.get(kind, {}) | more
    torch.manual_seed(0)
    return MODEL_FOR_CAUSAL_LM_MAPPING[made](made(**settings)).eval()
