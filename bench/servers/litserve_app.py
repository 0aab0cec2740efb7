"""LitServe, one worker. Batches where the workload batches, with the same batch size and wait.

It makes its route from the annotations of `decode_request` and `encode_response`: where these have none, it takes and
gives any JSON, or a stream.
"""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import litserve
import work

WORK = work.asked()


class Predict(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.answer = work.load(WORK)

    def decode_request(self, request) -> Any:
        return request["inputs"]

    def batch(self, inputs: Iterable[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, x: Any) -> Any:
        return self.answer(x) if WORK in work.MAX_BATCH else self.answer([x])[0]

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output):
        return {"result": output}


class Stream(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request) -> Any:
        return request

    def predict(self, x: Any) -> Iterator[int]:
        yield from range(work.TOKENS)

    def encode_response(self, output):
        for index in output:
            yield f"data: {json.dumps(work.chunk(index))}\n\n"
        yield "data: [DONE]\n\n"


def api() -> litserve.LitAPI:
    if WORK == "stream":
        return Stream(stream=True, api_path="/stream")
    if WORK in work.MAX_BATCH:
        return Predict(max_batch_size=work.MAX_BATCH[WORK], batch_timeout=work.GATHER[WORK])
    return Predict()


if __name__ == "__main__":
    litserve.LitServer(api(), accelerator="cpu", workers_per_device=1).run(
        port=int(os.environ["PORT"]),
        host="127.0.0.1",
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
