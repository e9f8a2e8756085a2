"""Systems in which one policy, or a proposer and a solver, learn to search: each in a file of its name."""
