"""Routes: a template, and what of a path goes where."""

from __future__ import annotations

import pytest

from hansang.core.wire import JSON, Reply, Request, Route


async def handler(request: Request) -> Reply:
    return Reply(b"")


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("/v1/models/{model}:predict", "/v1/models/iris:predict", {"model": "iris"}),
        ("/v1/models/{model}:predict", "/v1/models/iris@2:predict", {"model": "iris@2"}),
        ("/v1/models/{model}:predict", "/v1/models/a:b:predict", {"model": "a:b"}),
        ("/v1/models/{model}:predict", "/v1/models/:predict", None),
        ("/v1/models/{model}:predict", "/v1/models/a/b:predict", None),
        ("/v1/models/{model}:predict", "/v1/models/iris:predict/", None),
        ("/v1/models/{model}:predict", "/v1/models/iris:predict\n", None),
        ("/v1/models/{model}:predict", "x/v1/models/iris:predict", None),
        ("/predict/{gate}/{left}/{right}", "/predict/AND/1/0", {"gate": "AND", "left": "1", "right": "0"}),
        ("/predict/{gate}/{left}/{right}", "/predict/AND/1", None),
        ("/a.b", "/a.b", {}),
        ("/a.b", "/axb", None),
        ("/a+b/{x}", "/a+b/한글", {"x": "한글"}),
        ("/a/{x}", "/a/line\nbreak", {"x": "line\nbreak"}),
    ],
)
def test_a_path_fits_a_template_wholly_or_not_at_all(template: str, path: str, found: dict[str, str] | None) -> None:
    match = Route("GET", template, handler).pattern.fullmatch(path)
    assert (None if match is None else match.groupdict()) == found


def test_a_reply_is_json_unless_it_says_otherwise() -> None:
    reply = Reply(b"{}")
    assert reply.content_type is JSON
    assert (reply.status, list(reply.headers)) == (200, [])
