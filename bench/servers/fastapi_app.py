"""A bare FastAPI app, as one writes it: typed bodies, a `def` or an `async def` handler (BENCH_HANDLER).

`def` runs on FastAPI's thread pool; `async def` runs the model on the event loop. Neither batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import work
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

WORK = work.asked()
answer = work.load(WORK)
Sample: Any = list[list[list[float]]] if WORK == "tensor" else list[float]
app = FastAPI()


class Inputs(BaseModel):
    inputs: Sample


class Result(BaseModel):
    result: float | int


if os.environ.get("BENCH_HANDLER") == "async":

    @app.post("/predict")
    async def predict(body: Inputs) -> Result:
        return Result(result=answer([body.inputs])[0])

else:

    @app.post("/predict")
    def predict_on_a_thread(body: Inputs) -> Result:
        return Result(result=answer([body.inputs])[0])


@app.post("/stream")
async def stream(body: dict[str, Any]) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        for index in range(work.TOKENS):
            yield f"data: {json.dumps(work.chunk(index))}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}
