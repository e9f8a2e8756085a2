"""Policy-gradient losses over a flat stream of tokens."""
