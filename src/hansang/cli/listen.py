"""The socket a server listens on, and the addresses it is reached at.

Says no before anything is loaded: beyond this machine without a key, or on a port that somebody else has. Knows
nothing of HTTP.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from hansang.core.errors import SettingsError

_ANY = ("0.0.0.0", "::")  # noqa: S104 - to recognise it
_LISTENING = "0A"


def open_listener(host: str, port: int, *, secured: bool, command: Callable[[int], str]) -> socket.socket:
    """A bound socket, not listening yet. `secured`: a key is required; `command(port)` is what to type for another.

    Raises SettingsError: an address that is not ours, not allowed or in use.
    """
    family, address = _resolve(host, port)
    if not secured and not _is_loopback(address[0]):
        raise SettingsError(
            f"Listening on {host} would let everybody who reaches this machine use the server: no key is set.",
            hint="Either set a key and start again:\n"
            '  export HANSANG_API_KEY="$(python3 -c "import secrets; print(secrets.token_urlsafe(32))")"\n'
            "or stay on this machine:\n  --host 127.0.0.1",
            param="host",
        )
    listener = socket.socket(family)
    if os.name == "posix":  # elsewhere it would allow two servers on one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and address[0] == "::":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
    except OSError as exc:
        listener.close()
        raise _refused(exc, host, port, command) from None
    return listener


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise SettingsError(
            f"{host!r} is no address of this machine: {exc.strerror}.",
            hint="127.0.0.1 is this machine alone, 0.0.0.0 all its networks.",
            param="host",
        ) from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _refused(exc: OSError, host: str, port: int, command: Callable[[int], str]) -> SettingsError:
    if isinstance(exc, PermissionError):
        return SettingsError(
            f"Port {port} is one that only the system's administrator may use.",
            hint=f"Take one from 1024 on: {command(8000)}",
            param="port",
        )
    holder = port_holder(port)
    free = next_free(host, port)
    if holder is None and free is None:
        return SettingsError(f"Cannot listen on {host}:{port}: {exc.strerror}.", param="host")
    return SettingsError(
        f"Port {port} is in use{f' by {holder}' if holder else ''}.",
        hint=f"The next free one: {command(free)}" if free else "Choose another with --port.",
        param="port",
    )


def next_free(host: str, port: int) -> int | None:
    """The first port above `port` that can be had."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        family, address = _resolve(host, candidate)
        with socket.socket(family) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(address)
            except OSError:
                continue
            return candidate
    return None


def port_holder(port: int) -> str | None:
    """Who listens there, as `process 4711 (hansang serve)`. None where the system does not tell."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        if any(link in wanted for link in _open_files(process)):
            command = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
            return f"process {process.name} ({command})"
    return "another user's process" if wanted else None


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # somebody else's
        for link in (process / "fd").iterdir():
            with suppress(OSError):  # closed by now
                yield os.readlink(link)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *rest = line.split()
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield rest[5]


def addresses(host: str) -> tuple[str, list[str]]:
    """How a server bound to `host` is reached: from this machine, and from others of the network."""
    if host in _ANY:
        lan = lan_address()
        return "127.0.0.1", [lan] if lan else []
    written = f"[{host}]" if ":" in host else host
    return (written, []) if _is_loopback(_resolve(host, 0)[1][0]) else (written, [written])


def lan_address() -> str | None:
    """This machine's address in its network. Nothing is sent: the system only says which way it would go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if _is_loopback(address) or address in _ANY else address
