"""The server's one key: HANSANG_API_KEY, from the environment only.

With it, everything but the public pages asks for it, and the server may listen beyond this machine. Without it, it
answers on loopback and asks nobody. Keys with owners, scopes and limits are not here.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from hansang.core.errors import SettingsError, Unauthorized

ENVIRONMENT = "HANSANG_API_KEY"
SHORTEST = 32
PUBLIC = frozenset({"/", "/docs", "/redoc", "/healthz", "/readyz"})
PUBLIC_PREFIX = "/static/"


class ServerKey:
    """Compares in constant time; the key is never shown, logged or stored."""

    def __init__(self, key: str | None) -> None:
        if key is not None and (len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key):
            raise SettingsError(
                f"{ENVIRONMENT} must be at least {SHORTEST} printable ASCII characters, without spaces.",
                hint='Make one: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
        self._key = None if key is None else key.encode()
        self._bearer = None if key is None else b"Bearer " + key.encode()

    @property
    def required(self) -> bool:
        return self._key is not None

    def identify(self, path: str, headers: Mapping[bytes, bytes]) -> str:
        """The caller's name: `anonymous` where no key is asked for. Raises Unauthorized."""
        if self._bearer is None or self._key is None:
            return "anonymous"
        given = headers.get(b"authorization")
        if given is not None:
            if hmac.compare_digest(given, self._bearer):
                return "server-key"
            scheme, _, token = given.partition(b" ")
            if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._key):
                return "server-key"
        elif (bare := headers.get(b"x-api-key")) is not None and hmac.compare_digest(bare, self._key):
            return "server-key"
        if path in PUBLIC or path.startswith(PUBLIC_PREFIX):
            return "anonymous"
        raise _unauthorized(given is not None or b"x-api-key" in headers)


def _unauthorized(given: bool) -> Unauthorized:
    if given:
        message, code = "Incorrect API key provided.", "invalid_api_key"
    else:
        message, code = "You didn't provide an API key.", None
    return Unauthorized(
        message,
        hint=f"Send the key the server was started with ({ENVIRONMENT}): 'Authorization: Bearer KEY'.",
        code=code,
        headers={"WWW-Authenticate": "Bearer"},
    )
