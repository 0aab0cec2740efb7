"""`hansang init`: a `hansang.toml` with every setting and what it is, made from the table of settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hansang.core.errors import Conflict

_HEAD = """\
# The settings of a hansang server. Each line shows a default; take the # away to change it.
# Stronger than this file: .env, the environment (HANSANG_PORT=9000), flags (--port 9000).
# The server's key does not belong here: it is read from HANSANG_API_KEY in the environment alone.
"""
_MODEL = """
# Models to serve, each in a table of its own; paths are relative to this file.
# [models.my-model]
"""
_EXAMPLE = {
    "source": "model.onnx",
    "placement": "thread",
    "max_batch_size": 32,
    "concurrency": 1,
    "gather": 0.002,
    "sample": [1.0, 2.0],
    "display_name": "My model",
    "class": "nets.py:Net",
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(folder: Path, force: bool) -> None:
    """Write a commented hansang.toml into FOLDER (by default here)."""
    from hansang.settings import CONFIG_FILE

    path = folder / CONFIG_FILE
    if path.exists() and not force:
        raise Conflict(f"{path} is there already.", hint="To write over it: hansang init --force")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(template(), encoding="utf-8")
    click.echo(f"Wrote {path}. Change what you like in it, then: hansang serve")


def template() -> str:
    """The file's text."""
    return _HEAD + "".join(_settings()) + _MODEL + "".join(_model())


def _settings() -> Iterator[str]:
    from hansang.settings import Settings

    for name, field in Settings.model_fields.items():
        if name != "models":
            default = field.get_default(call_default_factory=True)
            yield f"\n# {field.description}\n# {name} = {_toml(True if default is None else default)}\n"


def _model() -> Iterator[str]:
    from hansang.settings import ModelSettings, keys_of

    for name, field in keys_of(ModelSettings).items():
        yield f"# {name} = {_toml(_EXAMPLE[name])}  # {field.description}\n"


def _toml(value: Any) -> str:
    """TOML writes these as JSON does."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
