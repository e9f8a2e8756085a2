"""A Hugging Face model folder from a GGUF file, the format of llama.cpp: weights, tokenizer, settings, licence."""
