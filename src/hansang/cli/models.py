"""`hansang models`: what a server has on its table, what a model is, and the repository it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hansang.cli.convert import convert
from hansang.cli.flags import dump, json_of
from hansang.core.errors import InvalidInput
from hansang.core.source import NAME

if TYPE_CHECKING:
    from hansang.client import Client

LOCAL = "http://127.0.0.1:8000"
_COLUMN = 14


@click.group()
def models() -> None:
    """List, inspect, store and load models."""


models.add_command(convert)


@models.command("list")
@click.option("--url", default=LOCAL, show_default=True, help="The server to ask; its key is in HANSANG_API_KEY.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(url: str, as_json: bool) -> None:
    """List the models of a running server."""
    from hansang.client import Client

    found = Client(url).models()
    if as_json:
        click.echo(dump(found, indent=2))
        return
    if not found:
        click.echo("No model is loaded there: hansang serve MODEL")
    rows = [_row(model) for model in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Name, task, version, state, memory."""
    from hansang.registry.inspect import size

    version, versions = model.get("version", "1"), model.get("versions", [])
    of = f" of {', '.join(versions)}" if len(versions) > 1 else ""
    memory = model.get("memory") or 0
    return model["id"], model.get("task", ""), f"version {version}{of}", model.get("state", ""), size(memory)


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="The model's name.  [the file's]")
@click.option("--class", "class_", metavar="FILE.py:Class", help="The class that a file of weights is of.")
@click.option("--trust", metavar="SHA256", help="sha256:... of FILE, if it may run code when it is opened.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="The repository's home.")
@click.option("--url", metavar="URL", help="Upload it to the server there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(
    file: Path,
    name: str | None,
    class_: str | None,
    trust: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Store FILE as the next version of a model.

    It is looked at and tried first, and refused if it is not safe or does not load. Without --url it goes into the
    repository of --home; a server that runs on that home serves it after `hansang models load NAME`, or from its next
    start.
    """
    if url is not None and (given := {"--class": class_, "--trust": trust, "--home": home}) and any(given.values()):
        flag = next(flag for flag, value in given.items() if value)
        raise click.UsageError(f"{flag} is for the repository here; a server takes no code, no trust and no path.")
    added = _add_here(file, name, class_, trust, home) if url is None else _upload(url, file, name)
    if as_json:
        click.echo(dump(added, indent=2))
        return
    plain = added["name"]
    click.echo(f"{plain}  version {added['version']}  {added['format']}  {added['signature'] or 'untyped'}")
    click.echo(f"sha256:{added['sha256']}")
    if url is None:
        click.echo(f"next: hansang serve, or for a server that runs on this home: hansang models load {plain}")


def _add_here(file: Path, name: str | None, class_: str | None, trust: str | None, home: Path | None) -> dict[str, Any]:
    from hansang.cli.flags import class_of
    from hansang.cli.here import Here, settings_of
    from hansang.core.source import CLASS

    options = {} if class_ is None else {CLASS: class_of(class_)}
    with Here(settings_of(home, trust=trust)) as here:
        return asdict(here.add(file, name or file.stem, options))


def _upload(url: str, file: Path, name: str | None) -> dict[str, Any]:
    from hansang.client import Client

    told = Client(url).upload(file, name)
    return {**told, "name": told["id"]}


def _server_command(words: str) -> Callable[[Callable[[Client, str], dict[str, Any]]], click.Command]:
    """A command that asks a server to do something with NAME, and says what came of it."""

    def made(ask: Callable[[Client, str], dict[str, Any]]) -> click.Command:
        @models.command(ask.__name__, help=ask.__doc__)
        @click.argument("name", metavar="NAME[@VERSION]")
        @click.option("--url", default=LOCAL, show_default=True, help="The server; its key is in HANSANG_API_KEY.")
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        def command(name: str, url: str, as_json: bool) -> None:
            from hansang.client import Client

            told = ask(Client(url), name)
            click.echo(dump(told, indent=2) if as_json else words.format(name=name, **told))

        return command

    return made


@_server_command("{name}: version {version} is {state}.")
def load(client: Client, name: str) -> dict[str, Any]:
    """Load a model's current version; NAME@2: that version beside it.

    A version that was stored by another program (hansang train, hansang models add) is seen now.
    """
    return client.load(name)


@_server_command("{name}: version {version} is {state}.")
def unload(client: Client, name: str) -> dict[str, Any]:
    """Unload a model; what it was asked before is answered, and its versions stay."""
    return client.unload(name)


@_server_command("{name}: removed.")
def remove(client: Client, name: str) -> dict[str, Any]:
    """Delete a model with all its versions; NAME@2: that version, if it is not loaded."""
    client.remove(name)
    return {"id": name, "deleted": True}


@_server_command("{name}: version {version} answers now.")
def rollback(client: Client, name: str) -> dict[str, Any]:
    """Let the version before answer to the name; NAME@2: that version."""
    plain, at, version = name.partition("@")
    if at and not version.isdigit():
        raise InvalidInput(f"{version!r} is not a version of {plain}.", hint=f"Versions are numbers: {plain}@1")
    return client.rollback(plain, int(version) if at else None)


@models.command()
@click.argument("source", required=False)
@click.option("--parameters", metavar="N", help="Only the arithmetic for so many parameters: 1e12.")
@click.option(
    "--url", metavar="URL", help=f"Ask the server there; SOURCE is then a model's name.  [{LOCAL} for a name]"
)
@click.option("--sample", metavar="JSON", help="A row to learn the model's types from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(source: str | None, parameters: str | None, url: str | None, sample: str | None, as_json: bool) -> None:
    """Show what a model takes and gives, what it weighs, and whether it fits this machine.

    SOURCE is loaded here; a plain NAME is asked of a running server.
    """
    if (source is None) == (parameters is None):
        raise click.UsageError("Give a SOURCE (or a NAME), or --parameters N.")
    if parameters is not None:
        found = _arithmetic(parameters)
    elif url is not None or _is_name(str(source)):
        found = _remote(url or LOCAL, str(source))
    else:
        found = _local(str(source), sample)
    click.echo(dump(found, indent=2) if as_json else "\n".join(_lines(found)))


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None and "." not in text and not Path(text).exists()


def _arithmetic(text: str) -> dict[str, Any]:
    from hansang.registry.inspect import arithmetic, machine_memory

    if not re.fullmatch(r"\d+(\.\d+)?([eE]\+?\d{1,2})?", text) or float(text) < 1:
        raise InvalidInput(f"--parameters {text!r} is not a number of parameters.", hint="For example 3, 7e9 or 1e12.")
    return arithmetic(int(text) if text.isdigit() else int(float(text)), machine_memory())


def _local(source: str, sample: str | None) -> dict[str, Any]:
    from hansang import logs
    from hansang.local import load
    from hansang.registry.inspect import machine_memory, report

    logs.configure("warning", "text")
    with load(source, sample=None if sample is None else json_of(sample, "--sample")) as loaded:
        signature = loaded.signature.describe() if loaded.signature else None
        return report(loaded.name, loaded.model.task.name, signature, loaded.model.info, machine_memory())


def _remote(url: str, name: str) -> dict[str, Any]:
    """What the server says of it, weighed on this machine."""
    from hansang.client import Client
    from hansang.registry.inspect import machine_memory, report

    told = Client(url).model(name)
    return {
        **report(told["id"], told["task"], told["signature"], told["info"], machine_memory()),
        **{key: told[key] for key in ("state", "version", "source", "routes", "last_error")},
    }


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    rest = dict(found)
    weight = {key: rest.pop(key, None) for key in ("parameters", "bytes", "dtypes", "memory", "fits")}
    card = rest.pop("card", None)
    if rest.get("signature", "") is None:
        rest["signature"] = "none: untyped, any JSON is passed on"
    yield from _pairs(rest)
    yield from _weight(weight)
    if card:
        yield "card"
        yield from _pairs(card if isinstance(card, dict) else {"": card}, "  ")


def _pairs(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        if value not in (None, {}, []):
            yield f"{indent}{key:<{_COLUMN - len(indent) - 1}} {value if isinstance(value, str) else dump(value)}"


def _weight(weight: Mapping[str, Any]) -> Iterator[str]:
    """The arithmetic, written out."""
    from hansang.registry.inspect import WIDTHS, size, width

    for dtype, part in (weight["dtypes"] or {}).items():
        yield f"{dtype:<{_COLUMN}}{_product(part['parameters'], width(dtype), part['bytes'])}"
    if weight["parameters"] is None:
        yield f"{'parameters':<{_COLUMN}}not known of this format"
        return
    memory = weight["memory"]
    yield f"{'memory':<{_COLUMN}}{size(memory['available'])} available of {size(memory['total'])}"
    for form, fit in weight["fits"].items():
        product = _product(weight["parameters"], WIDTHS[form], fit["bytes"])
        human = f" ({size(fit['bytes'])})" if fit["bytes"] >= 1024 else ""
        yield f"  {form:<{_COLUMN - 2}}{product}{human}: {'fits' if fit['fits'] else 'does not fit'}"


def _product(count: int, each: float, total: int) -> str:
    return f"{count:,} parameter{_s(count)} x {each:g} byte{_s(each)} = {total:,} byte{_s(total)}"


def _s(count: float) -> str:
    return "" if count == 1 else "s"
