"""The logic gates that everybody learns with, by name, and their truth tables. They are data; no model is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType

_TWO: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "nand": lambda a, b: 1 - (a & b),
    "nor": lambda a, b: 1 - (a | b),
    "xor": lambda a, b: a ^ b,
    "xnor": lambda a, b: 1 - (a ^ b),
}

GATES: Mapping[str, tuple[tuple[tuple[int, ...], int], ...]] = MappingProxyType(
    {"not": (((0,), 1), ((1,), 0))}
    | {name: tuple(((a, b), gate(a, b)) for a, b in product((0, 1), repeat=2)) for name, gate in _TWO.items()}
)
"""Each gate's rows: its inputs, and what it answers."""
