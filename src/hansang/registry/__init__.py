"""Which model answers to a name: sources, loading, state."""
