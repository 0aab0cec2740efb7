"""Rows of named columns in, rows of named columns out: gates, classifiers, functions, any tensor model.

The data is as it was decoded: lists, or arrays where a binary format brought arrays. Nothing is copied to count,
and only a batch of several callers is put together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from hansang.core.model import Task


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with their media type: an image, a sound, any file."""

    data: bytes
    content_type: str = "application/octet-stream"


@dataclass(slots=True)
class Table:
    """`columns` maps a name to `rows` values, each of the field's shape.

    An untyped model's rows are any JSON, in one column named `""`.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: int


def cut(table: Table, start: int, stop: int) -> Table:
    """Rows `start` to `stop`."""
    if start == 0 and stop >= table.rows:
        return table
    return Table({name: column[start:stop] for name, column in table.columns.items()}, min(stop, table.rows) - start)


def merge(tables: Sequence[Table]) -> Table:
    """The rows of all, in order. The tables have the same columns."""
    if len(tables) == 1:
        return tables[0]
    columns = {name: [value for table in tables for value in table.columns[name]] for name in tables[0].columns}
    return Table(columns, sum(table.rows for table in tables))


def shape(table: Table) -> Hashable:
    """What two tables must share to be put together: the columns, and the shape of a row in each."""
    return tuple([(name, _shape_of(column[0])) for name, column in table.columns.items()])


def _shape_of(value: Any) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        return (len(value), *_shape_of(value[0])) if value else (0,)
    return tuple(getattr(value, "shape", ()))


TABULAR = Task(
    name="tabular",
    request=Table,
    result=Table,
    rows=attrgetter("rows"),
    shape=shape,
    cut=cut,
    merge=merge,
)
