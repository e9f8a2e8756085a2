"""Metrics: scores against the ground truth, the monitor of a run, and the tables and the plot of its report."""
