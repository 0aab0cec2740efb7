"""`hansang train`: train a model here, into the repository of --home, or on a server.

Both ways ask the same of the same service; here it runs in this process, and Ctrl+C cancels the job.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from hansang.cli.flags import dump, json_of
from hansang.cli.jobs import result_lines, tell
from hansang.core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from hansang.client import JobEvent

_FILES = (".json", ".csv", ".tsv", ".txt")


class _Place(Protocol):
    """Where a training runs: a client, or `Here`."""

    def start_training(self, model: str, request: Mapping[str, Any], table: Path | None = None) -> dict[str, Any]: ...
    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]: ...
    def job(self, job_id: str) -> dict[str, Any]: ...
    def cancel(self, job_id: str) -> dict[str, Any]: ...


@click.command()
@click.argument("name")
@click.option("--trainer", metavar="NAME", help="perceptron or mlp.  [perceptron for a gate it can learn, else mlp]")
@click.option("--data", metavar="GATE|FILE", help="A gate, or a file: rows.json, table.csv.  [the gate NAME]")
@click.option("--target", metavar="COLUMN", help="The column to be told.  [the last]")
@click.option("--epochs", type=int, metavar="N", help="Rounds over the data, at most.")
@click.option("--option", "options", multiple=True, metavar="NAME=NUMBER", help="Another choice of the trainer.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same weights.  [0]")
@click.option("--format", "saved_as", metavar="FORMAT", help="json, safetensors, pickle, torch, onnx.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Train into this home.")
@click.option("--url", metavar="URL", help="Train on the server there; its key is in HANSANG_API_KEY.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
def train(
    name: str,
    trainer: str | None,
    data: str | None,
    target: str | None,
    epochs: int | None,
    options: tuple[str, ...],
    seed: int | None,
    saved_as: str | None,
    home: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Train the model NAME; the result is its next version.

    \b
    hansang train xor --trainer mlp --format onnx
    hansang train iris --data iris.csv --target species --epochs 50
    hansang train xor --url http://127.0.0.1:8000

    Without --url it is trained here, into the repository of --home. A server that runs on that home serves the new
    version after `hansang models load NAME`, or from its next start.
    """
    from hansang.client import succeeded

    if url is not None and home is not None:
        raise click.UsageError("--home is for a training here, not for --url.")
    rows, table = _data(data)
    chosen = _options(options, epochs)
    request = {"trainer": trainer, "data": rows, "target": target, "options": chosen, "seed": seed, "format": saved_as}
    with _place(url, home) as (place, folder):
        job = place.start_training(name, request, table)
        try:
            _follow(place, job, as_json)
        except KeyboardInterrupt:
            _cancel(place, job)
        job = succeeded(place.job(job["id"]))
    if as_json:
        click.echo(dump(job, indent=2))
        return
    click.echo(f"{'model':<14}{name}  {job['params']['trainer']} on {job['params']['data']['source']}")
    click.echo("\n".join(result_lines(job)))
    result = job["result"]
    if folder is not None:
        click.echo(f"{'path':<14}{folder / name / str(result['version']) / result['file']}")
        click.echo(f"next: hansang serve, or for a server that runs on this home: hansang models load {name}")


@contextmanager
def _place(url: str | None, home: Path | None) -> Iterator[tuple[_Place, Path | None]]:
    """Where to train, and the folder of its repository if that is here."""
    if url is not None:
        from hansang.client import Client

        yield Client(url), None
        return
    from hansang.cli.here import Here, settings_of

    chosen = settings_of(home)
    with Here(chosen) as here:
        yield here, chosen.home / "models"


def _follow(place: _Place, job: Mapping[str, Any], quietly: bool) -> None:
    events = place.events(job["id"])
    if not quietly:
        tell(events, f"{job['model']} ({job['params']['trainer']})")
        return
    for _ in events:
        pass


def _cancel(place: _Place, job: Mapping[str, Any]) -> None:
    """Stop it, and see it end. It may have ended just before."""
    try:
        place.cancel(job["id"])
    except Conflict:
        return
    for event in place.events(job["id"]):
        if event.kind == "cancelled":
            click.echo(f"\n{job['id']} was cancelled; nothing was stored.", err=True)
            raise click.Abort


def _data(text: str | None) -> tuple[Any, Path | None]:
    """What --data means: the rows or the gate, and the CSV file."""
    if text is None:
        return None, None
    file = Path(text).expanduser()
    if file.suffix.lower() not in _FILES and not file.is_file():
        return text, None
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [other.name for other in file.parent.glob("*")], n=1, cutoff=0.5)
        hint = f"Did you mean {file.with_name(near[0])}?" if near else "Check the path and its spelling."
        raise InvalidInput(f"There is no file {text}.", hint=hint, param="data")
    if file.suffix.lower() != ".json":
        return None, file
    try:
        rows = json_of(file.read_text(encoding="utf-8-sig"), text)
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{text} is not JSON: byte {exc.start} is not UTF-8.") from None
    return {"rows": rows} if isinstance(rows, list) else rows, None


def _options(pairs: tuple[str, ...], epochs: int | None) -> dict[str, float] | None:
    chosen: dict[str, float] = {} if epochs is None else {"epochs": epochs}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            number = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise InvalidInput(f"--option {pair!r} is not NAME=NUMBER.", hint="For example --option hidden=16")
        chosen[name] = int(number) if number.is_integer() else number
    return chosen or None
