"""The command line. Commands are in one file per group; this one only gathers them."""

from __future__ import annotations


def main() -> None:
    """The entry point `hansang`."""
    from hansang.cli.serve import serve

    serve()
