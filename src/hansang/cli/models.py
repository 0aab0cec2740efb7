"""`hansang models`: what a server has on its table, and what a model is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from hansang.cli.flags import dump, json_of
from hansang.core.errors import InvalidInput
from hansang.core.source import NAME

LOCAL = "http://127.0.0.1:8000"
_COLUMN = 14


@click.group()
def models() -> None:
    """List and inspect models."""


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
    width = max((len(model["id"]) for model in found), default=0)
    for model in found:
        state = "" if model.get("ready", True) else "not ready"
        click.echo(f"{model['id']:<{width}}  {model.get('task', '')}  {state}".rstrip())


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
