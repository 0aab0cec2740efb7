"""A curve in the terminal, drawn with braille: eight dots to a character. It knows no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bit of each dot of a braille character: by column, then by row from the top."""
_BLANK = 0x2800


def plot(values: Sequence[float], *, width: int = 60, height: int = 8, braille: bool = True) -> list[str]:
    """The lines of a plot of `values` over their positions, the range at its left. Without braille: stars."""
    across, down = (2, 4) if braille else (1, 1)
    low, high = min(values), max(values)
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(_stretched(values, width * across)):
        y = round((high - value) / ((high - low) or 1.0) * (height * down - 1))
        for filled in range(min(y, y if before is None else before), max(y, y if before is None else before) + 1):
            cells[filled // down][x // across] |= _DOTS[x % across][filled % down] if braille else 1
        before = y
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    margin = max(len(label) for label in labels.values())
    axis = "│" if braille else "|"
    return [f"{labels.get(number, ''):>{margin}} {axis}{_text(row, braille)}" for number, row in enumerate(cells)]


def _stretched(values: Sequence[float], points: int) -> Iterator[float]:
    """As many values as there are columns of dots, each at its place between its neighbours."""
    for point in range(points):
        place = point / max(1, points - 1) * (len(values) - 1)
        left = min(int(place), len(values) - 2) if len(values) > 1 else 0
        right = min(left + 1, len(values) - 1)
        yield values[left] + (values[right] - values[left]) * (place - left)


def _text(row: Sequence[int], braille: bool) -> str:
    return "".join(chr(_BLANK + bits) if braille else " *"[bits] for bits in row).rstrip(" \u2800")
