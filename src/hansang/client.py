"""Asks a hansang server. The standard library only, one connection for each request.

    client = hansang.Client("http://127.0.0.1:8000")
    client.predict("xor", [[0, 1], [1, 1]])     # rows in, predictions out
    client.predict("xor", x1=0, x2=1)           # one row by name, one prediction
    client.train("xor", trainer="mlp")          # a job on the server; its result is the model's next version
    client.upload("clf.skops")                  # a file as the next version of `clf`

An error is raised as the server told it: the same class, message, hint and status as inside the server.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, NamedTuple, overload
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener
from uuid import uuid4

from hansang.core.errors import DeadlineExceeded, HansangError, InvalidInput, Unavailable

ENVIRONMENT = "HANSANG_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_JSON = {"Content-Type": "application/json"}
_ENDED = ("succeeded", "failed", "cancelled", "interrupted")
_PIECE = 2**20
_TRIES = 5
"""Times that a lost stream of events is taken up again, one after another."""


class JobEvent(NamedTuple):
    """One line of a job's log. `kind` is "started", "epoch", or the state the job ended in; `id` counts from 1."""

    id: int
    kind: str
    data: Mapping[str, Any]


class Client:
    """One server at `url`. `key` is that of the environment (HANSANG_API_KEY) unless given."""

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, *, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._key = key or os.environ.get(ENVIRONMENT) or None
        self._opener = _opener(self.url)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries the key, if there is one."""
        return {} if self._key is None else {"Authorization": f"Bearer {self._key}"}

    def ready(self) -> bool:
        """Whether the server answers and has its models loaded."""
        try:
            self._ask("GET", "/readyz")
        except (Unavailable, DeadlineExceeded):
            return False
        return True

    def models(self) -> list[dict[str, Any]]:
        """What is on the table."""
        models: list[dict[str, Any]] = self._ask("GET", "/v1/models")["data"]
        return models

    def model(self, name: str) -> dict[str, Any]:
        """What the server says about one model."""
        return self._ask("GET", _path(name))

    @overload
    def predict(self, model: str, rows: Sequence[Any], /) -> list[Any]: ...
    @overload
    def predict(self, model: str, /, **row: Any) -> Any: ...
    def predict(self, model: str, rows: Sequence[Any] | None = None, /, **row: Any) -> Any:
        """One prediction for each of `rows`, in order; or the one prediction for a row given by name."""
        answer = self._ask("POST", predict_path(model), predict_body(rows, row))
        return predictions(answer, rows)

    def upload(self, path: str | os.PathLike[str], name: str | None = None) -> dict[str, Any]:
        """Store a file as the next version of a model (by default named as the file is); it answers at once.

            client.upload("clf.skops")["version"]

        Streamed, whatever its size. The server looks whether it is safe and tries it before it takes it.
        """
        file = Path(path)
        target = f"/v1/models/{quote(name or file.stem, safe='')}?{urlencode({'filename': file.name})}"
        with _reading(file) as (opened, size):
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            return self._ask("PUT", target, _pieces(opened), headers)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """All versions of a model, the newest first, loaded or not."""
        versions: list[dict[str, Any]] = self._ask("GET", f"{_path(model)}/versions")["data"]
        return versions

    def load(self, model: str) -> dict[str, Any]:
        """Load a model's current version, or (`name@2`) a version beside it."""
        return self._ask("POST", f"{_path(model)}/load", b"")

    def unload(self, model: str) -> dict[str, Any]:
        """Unload a model; its versions stay in the repository."""
        return self._ask("POST", f"{_path(model)}/unload", b"")

    def rollback(self, model: str, version: int | None = None) -> dict[str, Any]:
        """Let another version (by default the one before) answer to the bare name, now and after a restart."""
        body = b"" if version is None else json.dumps({"version": version}).encode()
        return self._ask("POST", f"{_path(model)}/rollback", body)

    def remove(self, model: str) -> None:
        """Delete a model with all its versions, or (`name@2`) one version that is not loaded."""
        self._ask("DELETE", _path(model))

    def train(
        self,
        model: str,
        data: str | Mapping[str, Any] | Sequence[Any] | Path | None = None,
        *,
        trainer: str | None = None,
        target: str | None = None,
        options: Mapping[str, float] | None = None,
        seed: int | None = None,
        format: str | None = None,  # noqa: A002 - the API's word
        wait: bool = True,
        on_event: Callable[[JobEvent], object] | None = None,
    ) -> dict[str, Any]:
        """Train a model on the server; the result is its next version. Returns the job.

            client.train("xor", trainer="mlp", on_event=print)["result"]["metrics"]
            client.train("iris", Path("iris.csv"), target="species", options={"epochs": 50})
            client.train("both", [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 1]])

        `data` is a gate's name (by default the model's), rows, or the Path of a CSV file. Raises what made it fail,
        unless it does not `wait`.
        """
        request: dict[str, Any] = {
            "trainer": trainer,
            "target": target,
            "options": options,
            "seed": seed,
            "format": format,
        }
        if not isinstance(data, Path):
            request["data"] = data if data is None or isinstance(data, str | Mapping) else {"rows": data}
        job = self.start_training(model, request, data if isinstance(data, Path) else None)
        if not wait:
            return job
        for event in self.events(job["id"]):
            if on_event is not None:
                on_event(event)
        return succeeded(self.job(job["id"]))

    def start_training(self, model: str, request: Mapping[str, Any], table: Path | None = None) -> dict[str, Any]:
        """Queue a training, as `POST /v1/models/{model}/train` takes it; `table` is a CSV file. Returns the job."""
        path = f"{_path(model)}/train"
        given = {key: value for key, value in request.items() if value is not None}
        if table is None:
            return self._ask("POST", path, json.dumps(given, default=_jsonable).encode())
        with _reading(table) as (opened, size):
            boundary, before, after = _form(given, table.name)
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(before) + size + len(after)),
            }
            return self._ask("POST", path, _pieces(opened, before, after), headers)

    def jobs(self) -> list[dict[str, Any]]:
        """The newest jobs first."""
        jobs: list[dict[str, Any]] = self._ask("GET", "/v1/jobs")["data"]
        return jobs

    def job(self, job_id: str) -> dict[str, Any]:
        """One job: its state, progress, and how it ended."""
        return self._ask("GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: one that waits at once, one that runs at its next step."""
        return self._ask("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")

    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """What a job tells after the event `after`, past and coming, until it has ended.

            for event in client.events(job["id"]):
                print(event.kind, event.data)

        A connection that is lost is taken up where it broke.
        """
        path = f"/v1/jobs/{quote(job_id, safe='')}/events"
        tries = 0
        while True:
            try:
                for event in self._stream(path, after):
                    after, tries = event.id, 0
                    yield event
                    if event.kind in _ENDED:
                        return
                if self.job(job_id)["state"] in _ENDED:
                    return
            except Unavailable:
                if tries >= _TRIES:
                    raise
            tries += 1
            time.sleep(min(0.1 * 2**tries, 2.0))

    def openapi(self) -> dict[str, Any]:
        """The server's OpenAPI document."""
        return self._ask("GET", "/openapi.json")

    def _ask(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, headers: Mapping[str, str] = _JSON
    ) -> dict[str, Any]:
        with self._failures(), self._open(method, path, body, headers) as reply:
            answer: dict[str, Any] = decode(reply.status or 500, reply.read())
        return answer

    def _stream(self, path: str, after: int) -> Iterator[JobEvent]:
        """One connection's events."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self._failures(), self._open("GET", path, None, headers) as reply:
            if reply.status != 200:
                decode(reply.status or 500, reply.read())
            told: dict[str, str] = {}
            for line in reply:
                name, _, value = line.decode().rstrip("\r\n").partition(":")
                if name:
                    told[name] = value.removeprefix(" ")
                elif not line.strip() and "data" in told:
                    yield JobEvent(int(told["id"]), told["event"], json.loads(told["data"]))
                    told = {}

    def _open(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None, headers: Mapping[str, str]
    ) -> HTTPResponse | HTTPError:
        request = Request(self.url + path, data=body, method=method, headers=dict(headers))  # noqa: S310 - _opener saw to it
        for name, value in self.authorization.items():
            # Unredirected: a server that sends us elsewhere does not send our key there.
            request.add_unredirected_header(name, value)
        try:
            reply: HTTPResponse = self._opener.open(request, timeout=self.timeout)
        except HTTPError as exc:
            return exc
        return reply

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """No answer at all, as our errors."""
        try:
            yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.url} did not answer within {self.timeout:g} s.", hint="Give the client a longer `timeout`."
            ) from None
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise self._lost(exc) from None
        except (URLError, ConnectionError, HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            if isinstance(reason, BrokenPipeError | ConnectionResetError):
                raise self._lost(reason) from None
            raise Unavailable(
                f"Nothing answers at {self.url}: {reason}.",
                hint="Start a server (hansang serve MODEL), or give the right address.",
                code="no_server",
            ) from None

    def _lost(self, exc: OSError) -> Unavailable:
        return Unavailable(
            f"{self.url} closed the connection in the middle of the request: {exc.strerror or exc}.",
            hint="Is the key right, and the file not larger than the server's upload_limit? Its log may tell.",
            code="connection_lost",
        )


@contextmanager
def _reading(file: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A file to send, and its size."""
    try:
        opened = file.open("rb")
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be read: {exc.strerror}.", hint="Check the path and its spelling.") from None
    with opened:
        yield opened, os.fstat(opened.fileno()).st_size


def _pieces(file: IO[bytes], before: bytes = b"", after: bytes = b"") -> Iterator[bytes]:
    yield before
    while piece := file.read(_PIECE):
        yield piece
    yield after


def _form(fields: Mapping[str, Any], filename: str) -> tuple[str, bytes, bytes]:
    """A multipart form with one file: its boundary, and what stands before and after the file's bytes."""
    boundary = uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        f"{value if isinstance(value, str) else json.dumps(value, default=_jsonable)}\r\n"
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quote(filename)}"\r\n'
    before = "".join([*parts, head, "Content-Type: text/csv\r\n\r\n"])
    return boundary, before.encode(), f"\r\n--{boundary}--\r\n".encode()


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='@')}"


def succeeded(job: dict[str, Any]) -> dict[str, Any]:
    """The job, if it succeeded. Raises what made it fail, with the class it had in the server."""
    if job["state"] == "succeeded":
        return job
    error = job.get("error") or {}
    code = error.get("code") or f"job_{job['state']}"
    kind = next((kind for kind in _tree(HansangError) if kind.code == code), HansangError)
    raise kind(error.get("message") or f"The job {job['id']} was {job['state']}.", hint=error.get("hint"), code=code)


def _opener(url: str) -> OpenerDirector:
    """A proxy of the environment is for other machines, never for this one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HansangError(
            f"{url!r} is not a server's address; expected http://HOST:PORT or https://...",
            hint="For a server on this machine: http://127.0.0.1:8000",
            code="invalid_url",
        )
    return build_opener(ProxyHandler({})) if parts.hostname in _LOOPBACK else build_opener()


def predict_path(model: str) -> str:
    """The route that answers predictions of a model."""
    return f"{_path(model)}:predict"


def predict_body(rows: Sequence[Any] | None, row: Mapping[str, Any]) -> bytes:
    """The request for some rows, or for one given by name. Arrays become lists, bytes `{"b64": ...}`."""
    if rows is not None and row:
        raise TypeError("predict takes rows, or one row by name, not both")
    instances = [dict(row)] if rows is None else rows if isinstance(rows, list) else list(rows)
    return json.dumps({"instances": instances}, default=_jsonable, ensure_ascii=False).encode()


def predictions(answer: Mapping[str, Any], rows: Sequence[Any] | None) -> Any:
    """The answer to `predict_body`: a list for rows, the one prediction for a row given by name."""
    listed = answer["predictions"]
    return listed if rows is not None else listed[0]


def _jsonable(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"b64": b64encode(value).decode()}
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a row holds a {type(value).__name__}; send numbers, text, lists, dicts, arrays or bytes")


def decode(status: int, body: bytes) -> Any:
    """The JSON of an answer; an error is raised as the class it was in the server."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if status < 400 and answer is not None:
        return answer
    told = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(told, dict) and isinstance(told.get("message"), str):
        kind = _kind(status, told.get("code"))
        error = kind(told["message"], hint=told.get("hint"), param=told.get("param"), code=told.get("code"))
    else:
        kind = _kind(status, None)
        error = kind(f"The server answered {status}, and not as a hansang server does.", hint="Is the address right?")
    error.status = status
    raise error


def _kind(status: int, code: str | None) -> type[HansangError]:
    """The class of that code, else the most general one of that status."""
    known = [kind for kind in _tree(HansangError) if kind.status == status]
    exact = [kind for kind in known if kind.code == code]
    general = [kind for kind in known if kind.code is None]
    only = known if len(known) == 1 else []
    return next(iter([*exact, *general, *only]), HansangError)


def _tree(root: type[HansangError]) -> Iterator[type[HansangError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _tree(kind)
