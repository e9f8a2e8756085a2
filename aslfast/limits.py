"""Upper bounds of numbers that users give, shared by the configuration, the commands and the index."""

MOST = 1_000_000_000  # of a count that nothing else bounds
MOST_SEED = 2**63 - 1
MOST_STEPS = 1_000_000
MOST_TOKENS = 2**24  # of one trajectory or one forward pass
MOST_SECONDS = 86_400.0
MOST_THREADS = 1024
MOST_TURNS = 1000
MOST_TOP_K = 1000  # passages of one search of a trajectory
MOST_TEMPERATURE = 100.0
MOST_HITS = 1_000_000  # passages of one search of an index
MOST_MEMORY_MB = 2**24  # of an index build
MOST_K1 = 1000.0
MOST_WORLDS = 10_000
MOST_GPU_GB = 1_000_000
