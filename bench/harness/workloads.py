"""What is measured: six workloads, each with its servers, its figures, and the goals that hansang has set itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.servers import (
    BATCHED_BENTO,
    HEALTH,
    OUT,
    STREAM,
    Server,
    bentoml,
    chat,
    fastapi,
    floor,
    hansang,
    litserve,
    mlserver,
    predict_v1,
)

Kind = Literal["requests", "stream", "cold"]
Against = Literal["ratio", "difference", "bound", "value"]


@dataclass(frozen=True)
class Goal:
    """`measure` of `server`, against the baseline (ratio, difference), the workload's bound, or by itself."""

    server: str
    measure: str
    against: Against
    limit: float
    at_least: bool = False
    conc: Sequence[int] = ()
    """At these numbers of connections; empty: at all that were measured."""


@dataclass(frozen=True)
class Workload:
    """`work` is its name for servers/work.py; `answer` is what every server must say (None: the same as the others)."""

    key: str
    work: str
    title: str
    about: str
    servers: Sequence[Server]
    goals: Sequence[Goal]
    sample: Callable[[], Any] = lambda: None
    answer: Any = None
    kind: Kind = "requests"
    conc: Sequence[int] = (64,)
    figure: str = "cpu_us"
    """The measure that is drawn."""
    baseline: str = "floor"
    bound: float | None = None
    """Requests per second that the model itself allows."""
    prepare: Callable[[], None] = lambda: None
    stretch: int = 1
    """Runs are so many times longer than asked for."""
    whole: bool = False
    """Requests too large to leave one unfinished: asked in turn on one connection (p99 is then the slowest)."""


def _features() -> list[float]:
    return [round(i * 7 % 17 / 16, 4) for i in range(64)]


def _picture() -> Any:
    import numpy as np

    return np.random.default_rng(0).random((3, 640, 640), dtype=np.float32)


def _make_mlp() -> None:
    from models.mlp import make

    path = OUT / "mlp.onnx"
    if not path.exists():
        make(path)


_GATE = "and=models/and.json"

W1 = Workload(
    "w1",
    "gate",
    "W1: the cost of a request",
    "A perceptron gate: next to no work, so what is left is what the server itself costs. hansang with its key "
    "required, metrics, request ids and deadlines on; the floor has none of these.",
    (
        floor(),
        hansang(_GATE, api=predict_v1("and"), title="**hansang**, perceptron, inline"),
        hansang(
            "models/gates.py:and_gate",
            api=predict_v1("and_gate"),
            name="hansang-function",
            title="hansang, Python function, on a thread",
        ),
        hansang(_GATE, api=predict_v1("and"), name="hansang-keyless", title="hansang, perceptron, no key", key=False),
        fastapi("async"),
        fastapi("def"),
        mlserver(),
        litserve(),
        bentoml(),
    ),
    (Goal("hansang", "cpu_us", "ratio", 1.5, conc=(16, 64)),),
    sample=lambda: [1, 1],
    answer=1,
    conc=(1, 16, 64),
)

W2 = Workload(
    "w2",
    "mlp",
    "W2: a small network in batches",
    "The same ONNX file (64-256-256-10, argmax) in onnxruntime with one thread, batches of at most 32, 2 ms of "
    "gathering. The floor here is raw ASGI with a bare batcher.",
    (
        floor(),
        hansang(config="mlp.toml", api=predict_v1("mlp")),
        fastapi("async"),
        fastapi("def"),
        mlserver(),
        litserve(),
        bentoml(BATCHED_BENTO),
    ),
    (Goal("hansang", "rps", "ratio", 0.70, at_least=True),),
    sample=_features,
    prepare=_make_mlp,
)

W3 = Workload(
    "w3",
    "sleep",
    "W3s: keeping an accelerator busy",
    "A model that sleeps 20 ms, and 20/15 ms more for each further sample of a batch of at most 16: no server can "
    "answer more than 400 a second.",
    (
        floor(),
        hansang("sleep=models/sleep.py:Sleep", api=predict_v1("sleep")),
        mlserver(),
        litserve(),
        bentoml(BATCHED_BENTO),
    ),
    (
        Goal("hansang", "rps", "bound", 0.97, at_least=True),
        Goal("hansang", "p99_ms", "value", 92),
        Goal("hansang", "cpu_us", "value", 100),
    ),
    sample=_features,
    answer=0,
    conc=(32,),
    figure="rps",
    bound=400.0,
    stretch=3,  # the requests in flight when wrk stops are not counted: 32 of 1,200 in three seconds
)

_TOKENS = [
    hansang(
        f"{place}=models/tokens.py:{place.title()}",
        api=chat(place),
        name=f"hansang-{place}",
        title=f"**hansang**, {words}",
    )
    for place, words in (("inline", "inline"), ("async", "async generator"), ("thread", "on a thread"))
]

W4 = Workload(
    "w4",
    "stream",
    "W4: streaming",
    "A hundred pieces of text as `chat.completion.chunk` events, then `[DONE]`. CPU per event; the time to the first "
    "event on a raw socket, one stream at a time.",
    (floor(STREAM), *_TOKENS, fastapi("async", STREAM), litserve(STREAM), bentoml(STREAM)),
    (
        Goal("hansang-inline", "cpu_us", "ratio", 1.35),
        Goal("hansang-async", "cpu_us", "ratio", 1.35),
        Goal("hansang-thread", "cpu_us", "ratio", 1.6),
        *(Goal(server.name, "first_ms", "difference", 0.3) for server in _TOKENS),
    ),
    kind="stream",
    conc=(1, 16),
)

W5 = Workload(
    "w5",
    "gate",
    "W5: starting, and standing idle",
    "From spawning the process to its first 200 on /healthz, with no model; then its memory, and its CPU over three "
    "idle seconds.",
    (fastapi("async", HEALTH), hansang(api=HEALTH), floor(HEALTH)),
    (
        Goal("hansang", "ready_ms", "ratio", 1.5),
        Goal("hansang", "rss_mb", "difference", 30),
        Goal("hansang", "processes", "value", 1),
        Goal("hansang", "idle", "value", 0.01),
    ),
    kind="cold",
    conc=(0,),
    figure="ready_ms",
    baseline="fastapi-async",
)

W6 = Workload(
    "w6",
    "tensor",
    "W6: a large tensor as JSON",
    "A 3x640x640 float32 tensor, 13 MB of JSON; the answer is the sum of its first 16 numbers, to show that it "
    "arrived. The floor parses with orjson and checks nothing.",
    (
        floor(),
        hansang("tensor=models/tensor.py:Tensor", api=predict_v1("tensor")),
        fastapi("async"),
        mlserver(),
        litserve(),
        bentoml(),
    ),
    (),
    sample=_picture,
    conc=(1,),
    whole=True,
)

ALL = {workload.key: workload for workload in (W1, W2, W3, W4, W5, W6)}
