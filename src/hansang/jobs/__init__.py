"""Long work with a state, progress events, a cancel and a result, remembered across a restart."""
