"""`hansang serve`: put models on the table and answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hansang.cli.flags import SettingsCommand, assigned, class_of, json_of


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--sample", "samples", multiple=True, metavar="[NAME=]JSON", help="A row to learn a model's types from.")
@click.option(
    "--class", "classes", multiple=True, metavar="[NAME=]FILE.py:Class", help="The class that a file of weights is of."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file.  [hansang.toml]")
@click.option("--reload", is_flag=True, help="Start again when code or model files change.")
@click.option("--inherited", hidden=True)
@click.pass_obj
def serve(
    arguments: list[str],
    /,
    models: tuple[str, ...],
    samples: tuple[str, ...],
    classes: tuple[str, ...],
    config: Path | None,
    reload: bool,
    inherited: str | None,
    **flags: Any,
) -> None:
    """Serve models; without any, the demo table.

    MODEL is [name=]source. A source is a file (iris.onnx, clf.skops, gate.json), something in a Python file or a
    notebook (gates.py:and_gate, lesson.ipynb:predict), or an existing web application (main.py:app).

    Every flag below is also an environment variable (HANSANG_PORT) and a line of hansang.toml (hansang init).
    """
    from hansang import logs, settings
    from hansang.app import Server
    from hansang.cli import child, run

    chosen = settings.load(flags, config)
    logs.configure(chosen.log_level, chosen.log_format)
    table = _specs(models, samples, classes)
    listener = child.inherit(inherited) if inherited else run.listen(chosen, lambda port: _again(arguments, port))
    with listener:
        if reload:
            from hansang.cli.reload import watch

            watch(arguments, listener, models, chosen, config)
        else:
            run.run(lambda chosen: Server(run.with_demo(table, chosen), chosen), chosen, listener)


def _specs(models: Sequence[str], samples: Sequence[str], classes: Sequence[str]) -> list[Any]:
    """The models of the command line, each with its sample and its class."""
    from hansang.core.source import CLASS, parse
    from hansang.registry.registry import ModelSpec

    specs = [ModelSpec(*parse(text)) for text in models]
    names = [spec.name for spec in specs]
    for place, value in assigned(samples, names, "--sample", "JSON"):
        specs[place].sample = json_of(value, "--sample")
    for place, value in assigned(classes, names, "--class", "FILE.py:Class"):
        specs[place].source = replace(specs[place].source, options={CLASS: class_of(value)})
    return specs


def _again(arguments: Sequence[str], port: int) -> str:
    """The command that was typed, with another port."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != "--port" and not argument.startswith("--port="):
            kept.append(argument)
        skip = argument == "--port"
    return shlex.join(["hansang", *kept, "--port", str(port)])
