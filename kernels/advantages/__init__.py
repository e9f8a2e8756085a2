"""Group-normalised advantages for ragged groups."""
