"""What a trainer learns from: a gate's truth table, rows in the request, or a CSV file, checked and in arrays.

Text columns become categories. Nothing is guessed silently: what cannot be used is refused by row and column, and
what was decided (which columns are categories, how it was split, how uneven the classes are) is told in `describe`.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hansang.core.errors import BadRequest
from hansang.tasks.gates import GATES
from hansang.training.tables import MOST_COLUMNS, Columns, read_csv

if TYPE_CHECKING:
    import numpy as np

_MOST_CATEGORIES = 1000
_MOST_CLASSES = 1000
_FEW_NUMBERS = 20
"""A target of whole numbers with at most so many values is a class; with more, a number."""
_ROWS_TO_SPLIT = 50
_SPLIT = 0.2
_UNEVEN = 0.8
_MOST_CELLS = 2**28
"""Numbers a network may see in all: 1 GiB of float32."""
_MOST_WHOLE = 2**53


@dataclass(frozen=True, slots=True)
class Input:
    """One input column: numbers, with what standardises them, or categories."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """How many numbers a network sees of it."""
        return 1 if self.categories is None else len(self.categories)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be told: one of `classes`, or a number."""

    name: str
    classes: tuple[Any, ...] | None = None
    mean: float = 0.0
    std: float = 1.0

    @property
    def kind(self) -> Literal["binary", "class", "number"]:
        if self.classes is None:
            return "number"
        return "binary" if self.classes == (0, 1) else "class"


@dataclass(slots=True)
class Dataset:
    """`columns[i]` are the values of `inputs[i]`: floats, or places in its categories.

    `y` are places in the target's classes, or floats.
    """

    source: str
    inputs: tuple[Input, ...]
    target: Target
    columns: list[np.ndarray]
    y: np.ndarray
    is_gate: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.y)

    @property
    def width(self) -> int:
        return sum(column.width for column in self.inputs)

    def features(self) -> np.ndarray:
        """The matrix a network sees, float32: numbers standardised, categories one-hot."""
        import numpy as np

        if self.rows * self.width > _MOST_CELLS:
            raise _wrong(
                f"With a column for every category, the table has {self.rows} x {self.width} numbers, too many.",
                f"At most {_MOST_CELLS}; leave out columns of many different texts.",
            )
        made = np.zeros((self.rows, self.width), dtype=np.float32)
        place = 0
        for column, values in zip(self.inputs, self.columns, strict=True):
            if column.categories is None:
                made[:, place] = (values - column.mean) / column.std
            else:
                made[np.arange(self.rows), place + values] = 1
            place += column.width
        return made

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to learn from and to test with; a gate's whole table is both, and few rows are not split."""
        import numpy as np

        everything = np.arange(self.rows)
        if self.is_gate or self.rows < _ROWS_TO_SPLIT:
            return everything, everything[:0]
        shuffled = np.random.default_rng(seed).permutation(self.rows)
        tested = int(self.rows * _SPLIT)
        return np.sort(shuffled[tested:]), np.sort(shuffled[:tested])

    def describe(self) -> dict[str, Any]:
        """What the job and the version say about the data."""
        told: dict[str, Any] = {"source": self.source, "rows": self.rows, "target": self.target.name}
        told["inputs"] = [column.name for column in self.inputs]
        if categories := [column.name for column in self.inputs if column.categories is not None]:
            told["categories"] = categories
        if self.target.classes is not None:
            counts = Counter(self.y.tolist())
            told["classes"] = {str(label): counts[place] for place, label in enumerate(self.target.classes)}
        if self.notes:
            told["notes"] = self.notes
        return told


def read_dataset(data: Any, model: str, table: Path | None, target: str | None = None) -> Dataset:
    """The data a request names. Raises BadRequest."""
    if table is not None:
        wanted = target or (data.get("target") if isinstance(data, Mapping) else None)
        return _from_columns(read_csv(table), wanted, "csv")
    if data is None:
        data = model.lower()
    if isinstance(data, str):
        return gate(data.lower())
    if isinstance(data, Mapping) and "rows" in data:
        if unknown := [key for key in data if key not in ("rows", "columns", "target")]:
            raise _wrong(f"data.{unknown[0]} is not known here.", "data takes rows, columns and target.")
        return _from_columns(_columns_of(data["rows"], data.get("columns")), target or data.get("target"), "rows")
    raise _wrong(
        f"data is {type(data).__name__}, which is no table.",
        'The name of a gate ("and"), {"rows": [[0, 1, 1], ...]}, or a CSV file in a form.',
    )


def gate(name: str) -> Dataset:
    """The truth table of a gate. Raises BadRequest with the gates there are."""
    import numpy as np

    if name not in GATES:
        near = difflib.get_close_matches(name, GATES, n=1, cutoff=0.5)
        raise _wrong(
            f"There is no gate {name[:100]!r}, and no other data was sent.",
            (f"Did you mean {near[0]}? " if near else "") + f"Gates: {', '.join(GATES)}; or send rows, or a CSV file.",
        )
    rows, outputs = zip(*GATES[name], strict=True)
    names = ("x",) if name == "not" else ("left", "right")
    columns = [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]
    inputs = tuple(Input(column, mean=0.5, std=0.5) for column in names)
    return Dataset(f"gate {name}", inputs, Target("result", (0, 1)), columns, np.array(outputs), is_gate=True)


_ROWS = "[[0, 1, 1], ...] or [{'a': 0, 'b': 1, 'y': 1}, ...]"


def _columns_of(rows: Any, names: Any) -> Columns:
    """Inline rows: lists, with `columns` as names, or objects."""
    if not isinstance(rows, list) or not rows:
        raise _wrong("data.rows is empty, or no list.", _ROWS)
    if isinstance(rows[0], Mapping):
        names = list(rows[0])
        rows = [_in_order(row, names, number) for number, row in enumerate(rows)]
    if not isinstance(rows[0], list) or not rows[0]:
        raise _wrong(f"data.rows[0] is {_short(rows[0])}, which is no row.", _ROWS)
    width = len(rows[0])
    names = names or [*(f"x{n}" for n in range(1, width)), "y"]
    if (
        not isinstance(names, list)
        or len(set(map(str, names)) - {""}) != len(names)
        or not (len(names) == width <= MOST_COLUMNS)
    ):
        raise _wrong(
            f"data.columns must be {width} different names, one for each value of a row.", f"At most {MOST_COLUMNS}."
        )
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != width:
            raise _wrong(f"data.rows[{number}] has not {width} values, as the first row has.", "All rows are alike.")
        for name, value in zip(names, row, strict=True):
            if not isinstance(value, str | int | float):
                raise _wrong(f"data.rows[{number}].{name} is {_short(value)}.", "Values are numbers or text.")
    values = {
        str(name): [_text(value) for value in column]
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    return Columns(values, range(len(rows)), unit="data.rows")


def _in_order(row: Any, names: list[str], number: int) -> list[Any]:
    """A row given as an object, as a list."""
    if not isinstance(row, Mapping) or row.keys() != set(names):
        told = f"has {', '.join(map(str, row))}" if isinstance(row, Mapping) else f"is {_short(row)}"
        raise _wrong(f"data.rows[{number}] {told[:200]}; the first row has {', '.join(names)}.", "All rows are alike.")
    return [row[name] for name in names]


def _short(value: Any) -> str:
    return repr(value)[:40]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _from_columns(table: Columns, target: Any, source: str) -> Dataset:
    import numpy as np

    names = list(table.values)
    if target is None:
        target = names[-1]
    if not isinstance(target, str) or target not in table.values:
        near = difflib.get_close_matches(str(target), names, n=1, cutoff=0.4)
        hint = (f"Did you mean {near[0]}? " if near else "") + f"Columns: {', '.join(names[:30])}."
        raise _wrong(f"There is no column {_short(target)} to be the target.", hint, param="target")
    if len(names) < 2:
        raise _wrong("The table has one column only.", "It needs inputs and a target.")
    inputs: list[Input] = []
    columns: list[np.ndarray] = []
    notes: list[str] = []
    for name in names:
        if name == target:
            continue
        numbers = table.numbers(name)
        if numbers is None:
            labels = sorted(set(table.values[name]))
            if len(labels) > _MOST_CATEGORIES:
                raise _wrong(
                    f"The column {name} has {len(labels)} different texts, too many for categories.",
                    f"At most {_MOST_CATEGORIES}; leave the column out if it is a name or an id.",
                )
            place = {label: number for number, label in enumerate(labels)}
            inputs.append(Input(name, categories=tuple(labels)))
            columns.append(np.array([place[label] for label in table.values[name]]))
        else:
            inputs.append(Input(name, *_spread(name, numbers)))
            columns.append(numbers)
    told, y = _target(table, target, notes)
    if len(y) < _ROWS_TO_SPLIT:
        notes.append(f"Fewer than {_ROWS_TO_SPLIT} rows: all are learnt from, and none is kept to test with.")
    return Dataset(source, tuple(inputs), told, columns, y, notes=notes)


def _spread(name: str, numbers: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; a column that never changes has 1."""
    import numpy as np

    if numbers.min() == numbers.max():
        return float(numbers[0]), 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(numbers.mean()), float(numbers.std())
    if not math.isfinite(mean) or not math.isfinite(std) or std == 0:
        raise _wrong(f"The column {name} holds numbers too large, or too near each other.", "Scale it first.")
    return mean, std


def _target(table: Columns, name: str, notes: list[str]) -> tuple[Target, np.ndarray]:
    import numpy as np

    numbers = table.numbers(name)
    if numbers is not None:
        values = np.unique(numbers)
        whole = bool(np.all((values == np.round(values)) & (abs(values) < _MOST_WHOLE)))
        if len(values) < 2:
            raise _wrong(f"The target {name} is {values[0]:g} in every row.", "There is nothing to learn.")
        if not whole or len(values) > _FEW_NUMBERS:
            notes.append(f"{name} is taken as a number to estimate.")
            return Target(name, None, *_spread(name, numbers)), numbers
        labels: list[Any] = [int(value) for value in values]
        y = np.searchsorted(values, numbers)
    else:
        labels = sorted(set(table.values[name]))
        place = {label: number for number, label in enumerate(labels)}
        y = np.array([place[label] for label in table.values[name]])
    if len(labels) < 2:
        raise _wrong(f"The target {name} has one class only ({labels[0]!r}).", "There is nothing to tell apart.")
    if len(labels) > _MOST_CLASSES:
        raise _wrong(f"The target {name} has {len(labels)} classes.", f"At most {_MOST_CLASSES}.")
    share = np.bincount(y).max() / len(y)
    if share > _UNEVEN:
        common = labels[int(np.bincount(y).argmax())]
        notes.append(
            f"The classes are uneven: always answering {common!r} would be right in {share:.1%}. "
            "Look at the confusion matrix, not at the accuracy."
        )
    return Target(name, tuple(labels)), y


def _wrong(message: str, hint: str, param: str = "data") -> BadRequest:
    return BadRequest(message, hint=hint, param=param, code="invalid_data")
