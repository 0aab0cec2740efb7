"""The data plane: knows no protocol, no framework."""
