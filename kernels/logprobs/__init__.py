"""Log-probabilities and entropies of given tokens, from hidden states and the head or from logits."""
