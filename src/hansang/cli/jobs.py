"""`hansang jobs`: what a server works on. Also how a job is shown as it runs, for `hansang train` too."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from hansang.cli.flags import dump

if TYPE_CHECKING:
    from hansang.client import JobEvent

LOCAL = "http://127.0.0.1:8000"
_STEPS = 1000
_LINES = 20
"""Lines for a long job, about."""
_FIGURES = ("epoch", "loss", "errors", "accuracy", "test_accuracy")
_COLUMN = 14

_url = click.option("--url", default=LOCAL, show_default=True, help="The server; its key is in HANSANG_API_KEY.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def jobs() -> None:
    """List, follow and cancel a server's jobs."""


@jobs.command("list")
@_url
@_json
def list_jobs(url: str, as_json: bool) -> None:
    """List the jobs that a server remembers, the newest first."""
    from hansang.client import Client

    found = Client(url).jobs()
    if as_json:
        click.echo(dump(found, indent=2))
    elif not found:
        click.echo("No job there: hansang train xor --url URL")
    for job in () if as_json else found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created"]))
        click.echo(f"{job['id']}  {job['kind']}  {job['model']}  {job['state']} {job['progress']:.0%}  {when}")


@jobs.command()
@click.argument("job_id", metavar="ID")
@_url
@_json
def show(job_id: str, url: str, as_json: bool) -> None:
    """Show one job: its state, and how it ended."""
    from hansang.client import Client

    job = Client(url).job(job_id)
    click.echo(dump(job, indent=2) if as_json else "\n".join(_about(job)))


@jobs.command()
@click.argument("job_id", metavar="ID")
@_url
@_json
def follow(job_id: str, url: str, as_json: bool) -> None:
    """Show what a job tells until it has ended. Ctrl+C stops following, not the job."""
    from hansang.client import Client

    client = Client(url)
    if as_json:
        for event in client.events(job_id):
            click.echo(dump(event._asdict()))
        return
    tell(client.events(job_id), client.job(job_id)["model"])
    click.echo("\n".join(_about(client.job(job_id))))


@jobs.command()
@click.argument("job_id", metavar="ID")
@_url
@_json
def cancel(job_id: str, url: str, as_json: bool) -> None:
    """Cancel a job that waits or runs."""
    from hansang.client import Client

    job = Client(url).cancel(job_id)
    click.echo(dump(job, indent=2) if as_json else f"{job_id} is asked to stop; it was {job['state']}.")


def tell(events: Iterable[JobEvent], label: str) -> None:
    """Show events as they come: a bar and then the curve on a terminal, else some lines."""
    if not sys.stdout.isatty():
        for line in _told(events):
            click.echo(line)
        return
    name, curve = "", []
    with click.progressbar(length=_STEPS, label=label, item_show_func=_item) as bar:
        for event in events:
            if event.kind == "epoch":
                name = "loss" if "loss" in event.data else "errors"
                curve.append(float(event.data.get(name, 0)))
                bar.update(int(event.data.get("progress", 0) * _STEPS) - bar.pos, event.data)
            elif event.kind == "succeeded":
                bar.update(_STEPS - bar.pos, bar.current_item)
    if len(curve) > 1:
        from hansang.cli.plot import plot

        click.echo("\n".join([name, *plot(curve, braille=_can_print("\u28ff│"))]))


def _told(events: Iterable[JobEvent]) -> Iterator[str]:
    """A line for each epoch of a short job, and for every so many of a long one; always for the last."""
    count, shown, waiting = 0, 0.0, None
    for event in events:
        if event.kind != "epoch":
            if waiting is not None:
                yield _figures(waiting)
            yield event.kind
            continue
        count, progress, waiting = count + 1, event.data.get("progress", 0.0), event.data
        if count <= _LINES // 2 or progress - shown >= 1 / _LINES:
            yield _figures(event.data)
            shown, waiting = progress, None


def _figures(data: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_short(data[name])}" for name in _FIGURES if name in data)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _item(data: Mapping[str, Any] | None) -> str | None:
    return None if data is None else _figures(data)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _about(job: Mapping[str, Any]) -> Iterator[str]:
    for key in ("id", "kind", "model", "state"):
        yield f"{key:<{_COLUMN}}{job[key]}"
    yield f"{'progress':<{_COLUMN}}{job['progress']:.0%}"
    yield from result_lines(job)


def result_lines(job: Mapping[str, Any]) -> Iterator[str]:
    """How a job ended, for people."""
    if error := job.get("error"):
        yield f"{'error':<{_COLUMN}}{error['message']}"
        if error.get("hint"):
            yield f"{'hint':<{_COLUMN}}{error['hint']}"
    result = job.get("result") or {}
    for key in ("version", "seconds", "file", "sha256"):
        if key in result:
            yield f"{key:<{_COLUMN}}{result[key]}"
    for key, value in (result.get("metrics") or {}).items():
        if not isinstance(value, list | dict):
            yield f"{key:<{_COLUMN}}{value:.6g}" if isinstance(value, float) else f"{key:<{_COLUMN}}{value}"
    for note in [*((job.get("params") or {}).get("data") or {}).get("notes", []), result.get("note")]:
        if note:
            yield f"{'note':<{_COLUMN}}{note}"
