"""Systems: the phases of the shipped recipes, and the interface for phases of one's own."""
