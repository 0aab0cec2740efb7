"""W1's gate as a typed function."""


def and_gate(left: float, right: float) -> int:
    """1 if both are."""
    return 1 if 0.5 * left + 0.5 * right - 0.75 >= 0 else 0
