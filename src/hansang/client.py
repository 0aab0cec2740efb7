"""Asks a hansang server. The standard library only, one connection for each request.

    client = hansang.Client("http://127.0.0.1:8000")
    client.predict("xor", [[0, 1], [1, 1]])     # rows in, predictions out
    client.predict("xor", x1=0, x2=1)           # one row by name, one prediction

An error is raised as the server told it: the same class, message, hint and status as inside the server.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from hansang.core.errors import DeadlineExceeded, HansangError, Unavailable

ENVIRONMENT = "HANSANG_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_JSON = {"Content-Type": "application/json"}


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
        model: dict[str, Any] = self._ask("GET", f"/v1/models/{quote(name, safe='@')}")
        return model

    @overload
    def predict(self, model: str, rows: Sequence[Any], /) -> list[Any]: ...
    @overload
    def predict(self, model: str, /, **row: Any) -> Any: ...
    def predict(self, model: str, rows: Sequence[Any] | None = None, /, **row: Any) -> Any:
        """One prediction for each of `rows`, in order; or the one prediction for a row given by name."""
        answer = self._ask("POST", predict_path(model), predict_body(rows, row))
        return predictions(answer, rows)

    def openapi(self) -> dict[str, Any]:
        """The server's OpenAPI document."""
        document: dict[str, Any] = self._ask("GET", "/openapi.json")
        return document

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = Request(self.url + path, data=body, method=method, headers=_JSON)  # noqa: S310 - _opener saw to it
        for name, value in self.authorization.items():
            # Unredirected: a server that sends us elsewhere does not send our key there.
            request.add_unredirected_header(name, value)
        try:
            with self._opener.open(request, timeout=self.timeout) as reply:
                return decode(reply.status, reply.read())
        except HTTPError as exc:
            with exc:
                return decode(exc.code, exc.read())
        except (URLError, ConnectionError) as exc:
            raise Unavailable(
                f"Nothing answers at {self.url}: {getattr(exc, 'reason', exc)}.",
                hint="Start a server (hansang serve MODEL), or give the right address.",
                code="no_server",
            ) from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.url} did not answer within {self.timeout:g} s.", hint="Give the client a longer `timeout`."
            ) from None


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
    return f"/v1/models/{quote(model, safe='@')}:predict"


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
