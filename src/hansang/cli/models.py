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
        from hansang.client import Client

        found = Client(url or LOCAL).model(str(source))
    else:
        found = _local(str(source), sample)
    click.echo(dump(found, indent=2) if as_json else "\n".join(_lines(found)))


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None and "." not in text and not Path(text).exists()


def _arithmetic(text: str) -> dict[str, Any]:
    from hansang.registry.inspect import fits, machine_memory

    if not re.fullmatch(r"\d+(\.\d+)?([eE]\+?\d{1,2})?", text) or float(text) < 1:
        raise InvalidInput(f"--parameters {text!r} is not a number of parameters.", hint="For example 3, 7e9 or 1e12.")
    count = int(text) if text.isdigit() else int(float(text))
    memory = machine_memory()
    return {
        "parameters": count,
        "memory": {"total": memory.total, "available": memory.available},
        "fits": fits(count, memory),
    }


def _local(source: str, sample: str | None) -> dict[str, Any]:
    from hansang import logs
    from hansang.local import load
    from hansang.registry.inspect import machine_memory, report

    logs.configure("warning", "text")
    with load(source, sample=None if sample is None else json_of(sample, "--sample")) as loaded:
        return report(loaded.name, loaded.model, machine_memory())


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    from hansang.registry.inspect import WIDTHS, size, width

    rest = dict(found)
    told = {key: rest.pop(key, None) for key in ("parameters", "bytes", "dtypes", "memory", "fits", "signature")}
    for key, value in rest.items():
        if value is not None:
            yield f"{key:<11} {value if isinstance(value, str) else dump(value)}"
    if told["signature"] is not None or "signature" in found:
        signature = told["signature"]
        written = signature if isinstance(signature, str) else dump(signature)
        yield f"signature   {written if signature else 'none: untyped, any JSON is passed on'}"
    for dtype, part in (told["dtypes"] or {}).items():
        count = part["parameters"]
        yield f"{dtype:<11} {count:,} parameters x {width(dtype):g} bytes = {part['bytes']:,} bytes"
    if told["parameters"] is None and told["bytes"] is not None:
        yield f"bytes       {told['bytes']:,}"
    if told["fits"]:
        memory = told["memory"]
        yield f"memory      {size(memory['available'])} available of {size(memory['total'])}"
        for form, fit in told["fits"].items():
            verdict = "fits" if fit["fits"] else "does not fit"
            product = f"{told['parameters']:,} parameters x {WIDTHS[form]} bytes = {fit['bytes']:,} bytes"
            yield f"  {form:<5} {product} ({size(fit['bytes'])}): {verdict}"
