"""Flags for the settings, made from their table; and reading what people type as JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from hansang.core.errors import BadRequest, SettingsError


class SettingsCommand(click.Command):
    """A command with a flag for each setting. The table is read when the flags are needed, not at import."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *self._flags]

    @cached_property
    def _flags(self) -> list[click.Parameter]:
        from hansang.settings import Settings, flag_of

        flags: list[click.Parameter] = []
        for name, field in Settings.model_fields.items():
            if name == "models":
                continue
            flag = flag_of(name)
            kind = field.annotation
            default = field.get_default(call_default_factory=True)
            shown = f"{field.description}  [{default}]" if default not in (None, False, []) else field.description
            if bool in (kind, *get_args(kind)):
                flags.append(click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=shown))
            else:
                flags.append(click.Option([flag], metavar=_metavar(kind), help=shown))
        return flags


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {int: "N", float: "SECONDS", str: "TEXT"}.get(kind, "A,B" if get_origin(kind) is list else "DIR")


def assigned(texts: Sequence[str], names: Sequence[str], flag: str, kind: str) -> Iterator[tuple[int, str]]:
    """`[NAME=]KIND` of a flag that is for one of several models: which one, and the value. Raises SettingsError."""
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in names:
            yield names.index(name), value
        elif len(names) == 1:
            yield 0, text
        else:
            raise SettingsError(
                f"{flag} {text!r} does not say which of {len(names)} models it is for.",
                hint=f"Write {flag} NAME={kind}, with one of: {', '.join(names)}",
            )


def class_of(text: str) -> str:
    """`FILE.py:Class`, with the file's whole path. Raises SettingsError."""
    file, colon, name = text.rpartition(":")
    path = Path(file).expanduser()
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise SettingsError(
            f"--class {text!r} does not name a class in a file.", hint="Write --class nets.py:Net", param="class"
        )
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}:{name}?" if near else "Check the path and its spelling."
        raise SettingsError(f"--class {text!r}: there is no file {file}.", hint=hint, param="class")
    return f"{path.resolve()}:{name}"


def json_of(text: str, what: str) -> Any:
    """The JSON that somebody typed. Raises BadRequest with the offset."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise BadRequest(
            f"{what} is not JSON: {exc.msg} at character {exc.pos} of {text[:60]!r}.",
            hint="In a shell, put single quotes around JSON: '[[0, 1]]'",
        ) from None


def dump(value: Any, *, indent: int | None = None) -> str:
    """JSON for people and programs: Korean stays Korean."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
