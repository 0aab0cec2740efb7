"""`hansang bench`: how many predictions a second a server answers, and how long they take.

A closed loop: each of `--concurrency` callers asks again once it was answered. The callers share this machine, and its
cores, with a server that is started here; for figures to publish, and for other servers beside, there is `make bench`.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from hansang.cli.flags import dump, json_of
from hansang.core.errors import LoadFailed, NotFound

if TYPE_CHECKING:
    import aiohttp

    from hansang.client import Client

_WARM_UP = 0.5
"""Seconds that are not counted."""


@click.command()
@click.argument("model")
@click.option("--url", metavar="URL", help="Ask the server there; MODEL is then the model's name.")
@click.option("--rows", metavar="JSON", help="The rows of each request.  [one, made from what the model takes]")
@click.option("--concurrency", type=click.IntRange(1, 4096), default=16, show_default=True, help="Callers at a time.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="How long to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(model: str, url: str | None, rows: str | None, concurrency: int, seconds: float, as_json: bool) -> None:
    """Measure the predictions of MODEL: a source, served here for the time, or a name with --url."""
    import asyncio

    from hansang.client import Client, predict_body, predict_path

    given = None if rows is None else json_of(rows, "--rows")
    if given is not None and not isinstance(given, list):
        raise click.UsageError("--rows is a JSON list of rows.")
    with _served(model) if url is None else _there(url, model) as (address, name):
        client = Client(address)
        asked = example(client, name) if given is None else given
        client.predict(name, asked)  # what is wrong with the rows is said once, before it counts as errors
        work = _measure(client, address + predict_path(name), predict_body(asked, {}), concurrency, seconds)
        result = asyncio.run(work)
    figures = {"model": name, "concurrency": concurrency, **result.figures()}
    click.echo(dump(figures) if as_json else "\n".join(_lines(figures)))


@contextmanager
def _there(url: str, name: str) -> Iterator[tuple[str, str]]:
    yield url.rstrip("/"), name


@contextmanager
def _served(source: str) -> Iterator[tuple[str, str]]:
    """A server of `source` alone, in a process of its own. Its address and the model's name."""
    from hansang.cli import child
    from hansang.client import Client
    from hansang.core.source import parse

    name, _ = parse(source)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = child.start(
            ["serve", source, "--host=127.0.0.1", "--no-demo", "--log-format=json", "--log-level=warning"], listener
        )
        try:
            while not Client(address, timeout=1).ready():
                if process.poll() is not None:
                    raise LoadFailed(f"The server for {source} did not start; what it said stands above.")
                time.sleep(0.05)
            yield address, name
        finally:
            child.stop(process)


def example(client: Client, name: str) -> list[Any]:
    """The rows that the server's own document shows for this model."""
    from hansang.client import predict_path

    operation = client.openapi()["paths"].get(predict_path(name), {}).get("post")
    if operation is None:
        client.model(name)  # raises, with near names, if there is none
        raise NotFound(f"{name} does not answer predictions.", hint="GET /docs shows what it answers.")
    rows: list[Any] = operation["requestBody"]["content"]["application/json"]["example"]["instances"]
    return rows


@dataclass(slots=True)
class _Result:
    """What the callers noted. `times` are seconds of answers that were 200."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        times = sorted(self.times)
        return {
            "seconds": round(self.seconds, 2),
            "requests": len(times),
            "requests_per_second": round(len(times) / self.seconds, 1),
            "p50_ms": _percentile(times, 0.50),
            "p99_ms": _percentile(times, 0.99),
            "errors": dict(self.errors),
        }


def _percentile(times: list[float], share: float) -> float | None:
    return round(times[min(len(times) - 1, int(len(times) * share))] * 1000, 3) if times else None


async def _measure(client: Client, url: str, body: bytes, concurrency: int, seconds: float) -> _Result:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json", **client.authorization}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await _ask_until(session, url, body, concurrency, time.perf_counter() + min(_WARM_UP, seconds))
        began = time.perf_counter()
        result = await _ask_until(session, url, body, concurrency, began + seconds)
        result.seconds = time.perf_counter() - began
    return result


async def _ask_until(session: aiohttp.ClientSession, url: str, body: bytes, concurrency: int, end: float) -> _Result:
    import asyncio

    import aiohttp

    result = _Result()

    async def caller() -> None:
        while (asked := time.perf_counter()) < end:
            try:
                async with session.post(url, data=body) as reply:
                    await reply.read()
            except (aiohttp.ClientError, TimeoutError) as exc:
                result.errors[type(exc).__name__] += 1
                await asyncio.sleep(0.01)
                continue
            if reply.status == 200:
                result.times.append(time.perf_counter() - asked)
            else:
                result.errors[str(reply.status)] += 1

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return result


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{figures['model']}: {figures['concurrency']} callers for {figures['seconds']} s, on this machine's cores"
    yield f"  requests/s  {figures['requests_per_second']:,}"
    yield f"  p50         {figures['p50_ms']} ms"
    yield f"  p99         {figures['p99_ms']} ms"
    errors = ", ".join(f"{count} x {kind}" for kind, count in figures["errors"].items())
    yield f"  errors      {errors or 'none'}"
