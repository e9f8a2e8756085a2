"""Objectives beside `policy_loss`: per-token terms in plain torch, differentiable by autograd, and their sum.

There is no Triton path: each is a few operations on [T], on any device, in float32 or float64. `aggregate_loss` adds
terms up as `policy_loss` does.
"""
