"""Policy-gradient losses over one stream of tokens."""
