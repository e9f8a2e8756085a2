"""What a run left, to look at: the page, the live page and the listing of trajectories."""
