"""Tabular models that tests make in a line: `Rows("double", lambda x: 2 * x, Field("x", "int64"))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hansang.core.model import Call, Model
from hansang.core.signature import Field, Signature
from hansang.tasks.tabular import TABULAR, Table


class Rows(Model):
    """Answers each row with `answer(*values)`. Without inputs it is untyped: any JSON is a row."""

    task = TABULAR
    placement = "inline"

    def __init__(
        self,
        name: str,
        answer: Callable[..., Any],
        *inputs: Field,
        outputs: Sequence[Field] = (),
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.answer = answer
        self.signature = Signature(tuple(inputs), tuple(outputs)) if inputs else None
        self.info = info or {}

    def predict(self, calls: Sequence[Call]) -> Sequence[Table]:
        return [Table({"result": self._results(call.request)}, call.request.rows) for call in calls]

    def _results(self, table: Table) -> list[Any]:
        return [self.answer(*row) for row in zip(*table.columns.values(), strict=True)]


class Answering(Model):
    """Answers every call with one table, whatever was asked."""

    task = TABULAR
    placement = "inline"

    def __init__(self, name: str, table: Any, outputs: Sequence[Field] = ()) -> None:
        self.name = name
        self.table = table
        self.signature = Signature((Field("x", "int64"),), tuple(outputs))

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return [self.table for _ in calls]


def same(value: Any) -> Any:
    return value
