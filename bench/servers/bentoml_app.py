"""BentoML, one worker. Batches where the workload batches: it finds its own wait below `max_latency_ms`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import bentoml
import numpy as np
import work

WORK = work.asked()


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Bench:
    def __init__(self) -> None:
        self.answer = work.load(WORK)

    if WORK in work.MAX_BATCH:

        @bentoml.api(batchable=True, max_batch_size=work.MAX_BATCH[WORK], max_latency_ms=10_000, route="/predict")
        def predict(self, inputs: list[list[float]]) -> list[int]:
            return self.answer(inputs)

    elif WORK == "tensor":

        @bentoml.api(route="/predict")
        def predict_tensor(self, inputs: np.ndarray) -> dict:
            return {"result": self.answer([inputs])[0]}

    else:

        @bentoml.api(route="/predict")
        def predict_one(self, inputs: list[float]) -> dict:
            return {"result": self.answer([inputs])[0]}

    @bentoml.api(route="/stream")
    async def stream(self) -> AsyncGenerator[str, None]:
        for index in range(work.TOKENS):
            yield f"data: {json.dumps(work.chunk(index))}\n\n"
        yield "data: [DONE]\n\n"
