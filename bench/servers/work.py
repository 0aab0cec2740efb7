"""The models of the workloads as plain functions, for every server that is not hansang.

`load(work)` gives `answer(samples) -> one result for each`. hansang serves the same models from bench/models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MLP = Path(__file__).parent.parent / "out" / "mlp.onnx"
TOKENS = 100
MAX_BATCH = {"mlp": 32, "sleep": 16}
GATHER = {"mlp": 0.002, "sleep": 0.005}
"""Seconds."""


def asked() -> str:
    """The workload this server was started for."""
    return os.environ.get("BENCH_WORK", "gate")


def load(work: str) -> Callable[[list[Any]], list[Any]]:
    return {"gate": _gate, "mlp": _mlp, "sleep": _sleep, "tensor": _tensor, "stream": _gate}[work]()


def _gate() -> Callable[[list[Any]], list[Any]]:
    return lambda samples: [1 if 0.5 * x[0] + 0.5 * x[1] - 0.75 >= 0 else 0 for x in samples]


def _mlp() -> Callable[[list[Any]], list[Any]]:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(MLP, options, providers=["CPUExecutionProvider"])
    return lambda samples: session.run(None, {"x": np.asarray(samples, np.float32)})[0].tolist()


def _sleep() -> Callable[[list[Any]], list[Any]]:
    def answer(samples: list[Any]) -> list[Any]:
        time.sleep(0.020 + 0.020 / 15 * (len(samples) - 1))
        return [0] * len(samples)

    return answer


def _tensor() -> Callable[[list[Any]], list[Any]]:
    import numpy as np

    def answer(samples: list[Any]) -> list[Any]:
        array = np.asarray(samples, np.float32)
        return [float(total) for total in array.reshape(len(samples), -1)[:, :16].sum(axis=1)]

    return answer


def chunk(index: int) -> dict[str, Any]:
    """One event of the stream, in the fields that hansang sends."""
    choice = {"index": 0, "delta": {"content": f" token{index}"}, "logprobs": None, "finish_reason": None}
    return {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "tokens",
        "choices": [choice],
    }
