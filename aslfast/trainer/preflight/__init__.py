"""Preflight: what can be known before a run: whether the machine works, what the run will do, and whether it fits."""
