"""A callable's parameters: as fields of a signature, and from a row of a request to the arguments of one call.

No call is made here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from inspect import BoundArguments, Parameter
from itertools import repeat
from typing import Any, Optional

from hansang.core.errors import HansangError, InvalidInput, LoadFailed
from hansang.core.signature import REQUIRED, Field
from hansang.runtimes.type_hints import Convert, Unsupported, kind_of, kind_of_value
from hansang.tasks.tabular import Table

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_UNTYPED = ""
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(slots=True)
class Parameters:
    """What a callable takes. `name` is what callers are told; `variadic`: it takes any number, and stays untyped."""

    name: str
    signature: inspect.Signature
    fields: tuple[Field, ...] = ()
    converts: dict[str, Convert] = field(default_factory=dict)
    hinted: frozenset[str] = frozenset()
    keywords: tuple[str, ...] = ()
    """The parameters that are given by name."""
    variadic: bool = False

    @property
    def typed(self) -> bool:
        """Whether some hint says what it takes; or it takes nothing."""
        return not self.variadic and (bool(self.hinted) or not self.fields)

    def rows(self, table: Table) -> Iterator[Arguments]:
        """The arguments for each row of a table that has the fields' columns."""
        columns = [table.columns[field.name] for field in self.fields]
        rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else repeat((), table.rows)
        if self.converts:
            rows = (self._converted(row, f"instances[{index}]") for index, row in enumerate(rows))
        if not self.keywords:
            return ((row, {}) for row in rows)
        # Keyword-only parameters come last in a signature.
        positional = len(self.fields) - len(self.keywords)
        return ((row[:positional], dict(zip(self.keywords, row[positional:], strict=True))) for row in rows)

    def _converted(self, row: tuple[Any, ...], where: str) -> tuple[Any, ...]:
        values = list(row)
        for index, one in enumerate(self.fields):
            if (convert := self.converts.get(one.name)) is not None:
                try:
                    values[index] = convert(values[index])
                except HansangError as exc:
                    place = f"{where}.{one.name}" if len(self.fields) > 1 else where
                    raise InvalidInput(f"{place}: {exc.message}", hint=exc.hint, param=place) from None
        return tuple(values)

    def untyped_rows(self, table: Table) -> Iterator[Arguments]:
        """The arguments for each row of a table of any JSON."""
        for index, row in enumerate(table.columns[_UNTYPED]):
            arguments = self.bind(row, f"instances[{index}]")
            yield arguments.args, arguments.kwargs

    def bind(self, row: Any, where: str = "") -> BoundArguments:
        """Any JSON as arguments: an object by name if its names fit, a list in order if there are several parameters,
        else the row is the one argument. Raises InvalidInput if it does not fit.
        """
        parameters = self.signature.parameters
        named = {name for name, one in parameters.items() if one.kind in _NAMED}
        keywords = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
        bind = self.signature.bind
        try:
            if isinstance(row, dict) and (keywords or row.keys() & named or not (row or parameters)):
                return bind(**row)
            if isinstance(row, list) and self._several():
                try:
                    return bind(*row)
                except TypeError:
                    return bind(row)
            return bind(row)
        except TypeError as exc:
            names = ", ".join(parameters)
            raise InvalidInput(
                f"{where}: {self.name} takes ({names}), and this row does not fit: {exc}.".removeprefix(": "),
                hint=f"Send each row as an object by name: {self._shape()}.",
                param=where or None,
            ) from None

    def _several(self) -> bool:
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        positional = [kind for kind in kinds if kind is not Parameter.KEYWORD_ONLY and kind not in _VARIADIC]
        return len(positional) != 1 or Parameter.VAR_POSITIONAL in kinds

    def _shape(self) -> str:
        names = [name for name, one in self.signature.parameters.items() if one.kind not in _VARIADIC]
        return "{" + ", ".join(f'"{name}": ...' for name in names) + "}"

    def learn(self, sample: Any) -> BoundArguments:
        """Take the types of what has no hint from a sample row; give back the sample as arguments."""
        arguments = self.bind(sample)
        given = dict(arguments.arguments)
        if not self.variadic:
            self.fields = tuple(
                kind_of_value(given[one.name], fixed=True).field(one.name, one.default)
                if one.name in given and one.name not in self.hinted
                else one
                for one in self.fields
            )
        converts = {name: convert for name, convert in self.converts.items() if name in given}
        for name, convert in converts.items():
            arguments.arguments[name] = convert(given[name])
        return arguments


def parameters_of(function: Callable[..., Any], name: str) -> tuple[Parameters, Field]:
    """A callable's parameters, and the field of what it returns. Raises LoadFailed for a hint that JSON cannot be."""
    short = name.rpartition(":")[2]  # callers are not told where it lies
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C, without a signature: it takes what it takes
        any_one = Parameter("row", Parameter.POSITIONAL_ONLY)
        signature = inspect.Signature([any_one, Parameter("rows", Parameter.VAR_POSITIONAL)])
        return Parameters(short, signature, variadic=True), Field("result")
    hints = _hints(function, name)
    returns = _output(hints.get("return", Any))
    plain = signature.replace(return_annotation=inspect.Signature.empty)
    if any(parameter.kind in _VARIADIC for parameter in signature.parameters.values()):
        return Parameters(short, plain, variadic=True), returns
    keywords = tuple(key for key, one in signature.parameters.items() if one.kind is Parameter.KEYWORD_ONLY)
    found = Parameters(short, plain, hinted=frozenset(hints) & signature.parameters.keys(), keywords=keywords)
    fields = []
    for parameter in signature.parameters.values():
        default = REQUIRED if parameter.default is Parameter.empty else parameter.default
        hint = hints.get(parameter.name, Any)
        made, convert = _field(parameter.name, hint, default, f"The parameter {parameter.name} of {name}")
        fields.append(made)
        if convert is not None:
            found.converts[parameter.name] = convert
    found.fields = tuple(fields)
    return found, returns


def _hints(function: Callable[..., Any], name: str) -> Mapping[str, Any]:
    while isinstance(function, partial):
        function = function.func
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise LoadFailed(
            f"The type hints of {name} cannot be read: {exc}.",
            hint="Import what they name, also where it is only imported for type checkers.",
        ) from None
    except TypeError:
        return {}


def _field(name: str, hint: Any, default: Any, what: str) -> tuple[Field, Convert | None]:
    if default is None:
        hint = Optional[hint]  # noqa: UP045 - a hint may be a module: PIL.Image
    try:
        kind = kind_of(hint)
    except Unsupported as exc:
        raise LoadFailed(
            f"{what} is hinted as {_shown(hint)}, which has no form in JSON: {exc}.",
            hint="Use int, float, bool, str, list, dict, Literal, Enum, dataclass, pydantic models, numpy.ndarray, "
            "PIL.Image.Image or bytes; or leave the hint out.",
        ) from None
    return kind.field(name, default.value if isinstance(default, Enum) else default), kind.convert


def _output(hint: Any) -> Field:
    """What comes out is described where it can be; whether JSON can say it, the answer tells."""
    try:
        return kind_of(hint).field("result")
    except Unsupported:
        return Field("result")


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
