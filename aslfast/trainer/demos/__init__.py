"""Demonstrations of the three roles from labelled questions and an index, as the token streams that rollouts make."""
