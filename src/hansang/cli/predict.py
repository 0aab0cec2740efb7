"""`hansang predict`: ask a model, here or on a server."""

from __future__ import annotations

import mimetypes
import re
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import click

from hansang.cli.flags import dump, json_of
from hansang.core.errors import BadRequest, HansangError, InvalidInput

_PAIR = re.compile(r"(?P<name>[^\W\d]\w*)=(?P<value>.*)", re.DOTALL)


@click.command()
@click.argument("source")
@click.argument("words", nargs=-1, metavar="[INPUT]...")
@click.option("--url", metavar="URL", help="Ask the server there; SOURCE is then the model's name.")
@click.option("--sample", metavar="JSON", help="A row to learn the model's types from.")
@click.option("--json", "as_json", is_flag=True, help='Print {"predictions": [...]}.')
def predict(source: str, words: tuple[str, ...], url: str | None, sample: str | None, as_json: bool) -> None:
    """Predict with a model, loaded here from SOURCE, or on a server.

    INPUT is JSON (a list of rows, or one row as an object), @FILE with JSON, - for standard input, or name=value
    pairs, where name=@FILE is a file's content:

    \b
    hansang predict xor.onnx '[[0, 1], [1, 1]]'
    hansang predict gates.py:and_gate left=1 right=1
    hansang predict detector.py:boxes image=@cat.png
    hansang predict iris --url http://127.0.0.1:8000 @rows.json

    A server's key is read from HANSANG_API_KEY.
    """
    rows = _read(words)
    if url is not None:
        if sample is not None:
            raise click.UsageError("--sample is for a model that is loaded here, not for --url.")
        from hansang.client import Client

        answers = Client(url).predict(source, rows)
    else:
        from hansang import logs
        from hansang.local import load

        logs.configure("warning", "text")
        with load(source, sample=None if sample is None else json_of(sample, "--sample")) as model:
            answers = model.predict(rows)
    if as_json:
        click.echo(dump({"predictions": answers}))
    else:
        for answer in answers:
            click.echo(answer if isinstance(answer, str) else dump(answer))


def _read(words: tuple[str, ...]) -> list[Any]:
    """The rows that INPUT means."""
    pairs = [_PAIR.fullmatch(word) for word in words]
    if words and all(pairs):
        return [{pair["name"]: _value(pair["value"]) for pair in pairs if pair}]
    if len(words) > 1:
        strange = words[[bool(pair) for pair in pairs].index(False)]
        raise InvalidInput(
            f"{strange!r} is not name=value.", hint="Give one piece of JSON in quotes, or name=value pairs."
        )
    given = _json_input(words[0] if words else "-")
    if isinstance(given, dict) and given.keys() == {"instances"}:
        given = given["instances"]
    return given if isinstance(given, list) else [given]


def _json_input(word: str) -> Any:
    if word == "-":
        if sys.stdin.isatty():
            raise InvalidInput(
                "There is no input.", hint="Give rows, for example '[[0, 1]]' or left=0 right=1, or - and type them."
            )
        return json_of(sys.stdin.read(), "Standard input")
    if word.startswith("@"):
        try:
            return json_of(_content(word[1:]).decode(), word[1:])
        except UnicodeDecodeError as exc:
            raise BadRequest(f"{word[1:]} is not JSON: byte {exc.start} is not UTF-8.") from None
    return json_of(word, "INPUT")


def _value(text: str) -> Any:
    """A value as JSON if it is some, a file's bytes for `@FILE`, else the text itself."""
    if text.startswith("@"):
        kind = mimetypes.guess_type(text[1:])[0] or "application/octet-stream"
        return {"b64": b64encode(_content(text[1:])).decode(), "content_type": kind}
    try:
        return json_of(text, "a value")
    except HansangError:
        return text


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}.", hint="@FILE names a file.") from None
