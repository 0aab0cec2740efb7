"""The socket and the addresses of a server."""

from __future__ import annotations

import os
import socket

import pytest

from hansang.cli.listen import addresses, lan_address, next_free, open_listener, port_holder
from hansang.core.errors import SettingsError


def command(port: int) -> str:
    return f"hansang serve --port {port}"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_needs_no_key(host: str) -> None:
    with open_listener(host, 0, secured=False, command=command) as listener:
        assert listener.getsockname()[1] > 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_loopback_needs_no_key() -> None:
    with open_listener("::1", 0, secured=False, command=command) as listener:
        assert listener.family == socket.AF_INET6
    assert addresses("::1") == ("[::1]", [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_needs_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="no key is set"):
        open_listener(host, 0, secured=False, command=command)


def test_with_a_key_every_address_of_this_machine_will_do() -> None:
    with open_listener("0.0.0.0", 0, secured=True, command=command) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    with pytest.raises(SettingsError, match=r"Cannot listen on 192\.0\.2\.1:"):
        open_listener("192.0.2.1", 0, secured=True, command=command)


def test_a_port_that_is_taken_names_its_holder_and_the_next_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port_holder(port)).startswith(f"process {os.getpid()} (")
        free = next_free("127.0.0.1", port)
        assert free is not None
        assert free > port
        with pytest.raises(SettingsError) as caught:
            open_listener("127.0.0.1", port, secured=False, command=command)
    assert caught.value.message.startswith(f"Port {port} is in use by process {os.getpid()} (")
    assert str(caught.value.hint).startswith("The next free one: hansang serve --port ")


def test_nobody_holds_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert port_holder(port) is None


def test_a_server_is_reached_here_and_from_the_network() -> None:
    assert addresses("127.0.0.1") == ("127.0.0.1", [])
    assert addresses("127.0.0.2") == ("127.0.0.2", [])
    lan = lan_address()
    assert addresses("0.0.0.0") == ("127.0.0.1", [lan] if lan else [])
    if lan:
        assert addresses(lan) == (lan, [lan])
