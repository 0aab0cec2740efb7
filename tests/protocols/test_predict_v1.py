"""`POST /v1/models/{name}:predict`."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Running


def test_rows_may_be_lists_or_objects(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate)
    assert server.predict("and", [1, 1], [0, 1]) == {"predictions": [1, 0]}
    assert server.predict("and", {"left": 1, "right": 1}) == {"predictions": [1]}
