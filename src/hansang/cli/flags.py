"""Flags for the settings, made from their table; and reading what people type as JSON."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

import click

from hansang.core.errors import BadRequest


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
