"""The kernels inside other projects' trainers, one line each, and reversible."""
