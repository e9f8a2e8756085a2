"""Supervised fine-tuning: token streams -> an adapter, by the cross-entropy of the assistant's tokens."""
