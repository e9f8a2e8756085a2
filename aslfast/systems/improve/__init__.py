"""Systems in which one model improves itself: second attempts, filtered samples, introspection, its own histories."""
