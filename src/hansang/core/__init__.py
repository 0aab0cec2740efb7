"""The vocabulary: models, calls, signatures, sources, errors, and what passes the front door. Standard library only."""
