"""`hansang serve`: put models on the table and answer."""

from __future__ import annotations

import socket
import sys


def serve() -> None:
    """Serve the models named on the command line."""
    from hansang import settings
    from hansang.app import Server
    from hansang.http.server import uvicorn_server

    server = Server(sys.argv[2:], settings.load({}))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((server.settings.host, server.settings.port))
    chosen = server.settings
    uvicorn_server(server.app, header_timeout=chosen.header_timeout, drain_timeout=chosen.drain_timeout).run(
        sockets=[listener]
    )
