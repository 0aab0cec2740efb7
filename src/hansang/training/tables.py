"""CSV files as columns of text, and columns of text as numbers. No learning here.

UTF-8 (with or without a byte order mark) or CP949, as spreadsheets in Korea write it; commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hansang.core.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np

MOST_COLUMNS = 1000
_MOST_BYTES = 2**28
_MOST_CELLS = 2**24
_MOSTLY = 0.5
"""A column in which more than this share of the cells are numbers is meant to hold numbers."""


@dataclass(slots=True)
class Columns:
    """Named columns of text of equal length. `places` and `unit` tell people where a row is."""

    values: Mapping[str, list[str]]
    places: Sequence[int]
    unit: str = "line"

    def numbers(self, name: str) -> np.ndarray | None:
        """The column as floats; None if it holds text. Raises BadRequest for text, gaps or NaN among numbers."""
        import numpy as np

        cells = self.values[name]
        try:
            numbers = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
            if np.isfinite(numbers).all():
                return numbers
        except ValueError:
            pass
        readable = [_number(cell) for cell in cells]
        if sum(number is not None for number in readable) <= _MOSTLY * len(cells):
            empty = next((place for place, cell in enumerate(cells) if not cell.strip()), None)
            if empty is not None:
                raise self._bad(name, empty, "is empty")
            return None
        place = readable.index(None)
        what = "is empty" if not cells[place].strip() else f"is {cells[place][:40]!r}, which is no (finite) number"
        raise self._bad(name, place, what)

    def _bad(self, name: str, place: int, what: str) -> BadRequest:
        return BadRequest(
            f"The column {name} {what} in {self.unit} {self.places[place]}.",
            hint="Fill the cell, or leave the row or the column out.",
            param="data",
            code="invalid_data",
        )


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_csv(path: Path) -> Columns:
    """A CSV file with a heading. Raises BadRequest naming the line."""
    if path.stat().st_size > _MOST_BYTES:
        raise _wrong(f"The table is larger than {_MOST_BYTES} bytes.", "Send a part of it.")
    text = _decode(path.read_bytes())
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        heading = [name.strip() for name in next(reader, [])]
        _check_heading(heading)
        rows, lines = _rows(reader)
    except csv.Error as exc:
        raise _wrong(f"The table is not CSV: {exc} (line {reader.line_num}).", "Save it as CSV again.") from None
    if not rows:
        raise _wrong("The table has a heading, and no rows.", "It needs at least one row.")
    width = len(heading)
    for number, row in zip(lines, rows, strict=True):
        if len(row) != width:
            raise _wrong(
                f"Line {number} has {len(row)} cells, the heading has {width}.",
                "All lines need as many cells; put text that holds a comma into quotes.",
            )
    return Columns({name: list(column) for name, column in zip(heading, zip(*rows, strict=True), strict=True)}, lines)


def _rows(reader: Any) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line on which each begins (text in quotes may go over several)."""
    rows, lines = [], []
    cells = 0
    line: int = reader.line_num + 1
    for row in reader:
        if row:
            cells += len(row)
            if cells > _MOST_CELLS:
                raise _wrong(f"The table has more than {_MOST_CELLS} cells.", "Send a part of it.")
            rows.append(row)
            lines.append(line)
        line = reader.line_num + 1
    return rows, lines


def _check_heading(heading: list[str]) -> None:
    if len(heading) > MOST_COLUMNS:
        raise _wrong(f"The table has {len(heading)} columns.", f"At most {MOST_COLUMNS}; leave some out.")
    if not heading or not all(heading):
        raise _wrong("The first line must name every column.", "For example: length,width,species")
    doubled = {name for name in heading if heading.count(name) > 1}
    if doubled:
        raise _wrong(f"Two columns are named {min(doubled)!r}.", "Every column needs a name of its own.")


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise _wrong("The table is not text.", "Save it as CSV, not as a spreadsheet file.")
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise _wrong("The table is neither UTF-8 nor CP949 text.", "Save it as CSV in UTF-8.")


def _wrong(message: str, hint: str) -> BadRequest:
    return BadRequest(message, hint=hint, param="data", code="invalid_data")
