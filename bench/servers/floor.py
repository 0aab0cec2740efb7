"""The floor: one ASGI function on uvicorn[standard], orjson in and out. No check, no error, no metric, no key.

Nothing that answers JSON over ASGI can cost much less; every ratio is to this, measured beside it.
"""

from __future__ import annotations

from typing import Any

import orjson
import work
from batcher import Batcher

WORK = work.asked()
answer = work.load(WORK)
batcher = Batcher(answer, work.MAX_BATCH[WORK], work.GATHER[WORK]) if WORK in work.MAX_BATCH else None


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"] == "/predict":
        sample = orjson.loads(await _body(receive))["inputs"]
        result = answer([sample])[0] if batcher is None else await batcher.submit(sample)
        await _reply(send, orjson.dumps({"result": result}))
    elif scope["path"] == "/stream":
        await _body(receive)
        await _stream(send)
    else:
        await _reply(send, b'{"status":"ok"}')


async def _lifespan(receive: Any, send: Any) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


async def _body(receive: Any) -> bytes:
    message = await receive()
    if not message["more_body"]:
        return message["body"]
    parts = [message["body"]]
    while message["more_body"]:
        message = await receive()
        parts.append(message["body"])
    return b"".join(parts)


async def _reply(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for index in range(work.TOKENS):
        event = b"data: " + orjson.dumps(work.chunk(index)) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
