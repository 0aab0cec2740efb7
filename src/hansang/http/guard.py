"""Keeps web pages of others away from a server on this machine.

Host      A page on evil.example can point its own name at 127.0.0.1 (DNS rebinding): a Host that is not ours is 403.
Origin    A browser lets any page send simple requests anywhere: an Origin that is not ours, nor listed, is 403.

No keys here: that is `access`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from hansang.core.errors import BadRequest, Forbidden
from hansang.core.wire import Header

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_REMEMBERED = 64
_ONCE = frozenset({b"host", b"origin", b"authorization", b"x-api-key", b"x-hansang-timeout"})
"""Headers of which two would mean two things: to us the last one, to a proxy before us perhaps the first."""


def refuse_repeated(headers: Iterable[Header]) -> None:
    """Raise BadRequest if a header that may come once comes twice."""
    counts = Counter(name for name, _ in headers if name in _ONCE)
    repeated = sorted(name.decode() for name, count in counts.items() if count > 1)
    if repeated:
        raise BadRequest(f"The header {repeated[0]} came more than once.", hint="Send it once.")


def _named(host: str) -> str:
    """A host as it stands in a Host header, without port: an IPv6 address is in brackets there."""
    host = host.strip().lower()
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else _without_port(host)


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() and not name.endswith(":") else host


class Guard:
    """`hosts` are names without port; `*` among them allows any. `origins` are whole, as browsers send them."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._hosts = {_named(host) for host in (*LOOPBACK, *hosts)}
        self._origins = {origin.strip().lower().encode().rstrip(b"/") for origin in origins}
        self._seen: set[bytes] = set()

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise Forbidden for a foreign Host or Origin."""
        host = headers.get(b"host", b"")
        if host not in self._seen:
            self._check_host(host)
        if b"origin" in headers:
            self._check_origin(headers[b"origin"], host)

    def cors_headers(self, headers: Mapping[bytes, bytes]) -> list[Header]:
        """What a listed foreign page needs to read the answer."""
        origin = headers.get(b"origin")
        if origin is None or origin not in self._origins:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"origin"),
        ]

    def _check_host(self, host: bytes) -> None:
        name = _without_port(host.decode("latin-1").lower())
        if "*" not in self._hosts and name not in self._hosts:
            raise Forbidden(
                f"This server does not answer to the host {name!r}.",
                hint=f"If that is its name, start it with --allowed-hosts {name} (or `allowed_hosts` in hansang.toml).",
                code="unknown_host",
            )
        if len(self._seen) < _REMEMBERED:
            self._seen.add(host)

    def _check_origin(self, origin: bytes, host: bytes) -> None:
        if origin in (b"http://" + host, b"https://" + host) or origin in self._origins:
            return
        page = origin.decode("latin-1")
        raise Forbidden(
            f"Pages from {page} may not use this server.",
            hint=f"If that is your page, start the server with --cors-origins {page} "
            "(or `cors_origins` in hansang.toml).",
            code="foreign_origin",
        )
