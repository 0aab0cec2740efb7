"""Three gates behind an HTTP API, written by hand with FastAPI.

    uvicorn before:app

What it has not: batches, deadlines, a limit on what waits, keys, metrics, request ids, other wire formats.
"""

import json
from pathlib import Path

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict

HERE = Path(__file__).parent
GATES = {name: json.loads((HERE / f"{name}.json").read_text()) for name in ("and", "or", "not")}

app = FastAPI()


class Instances(BaseModel):
    model_config = ConfigDict(extra="forbid")
    instances: list[list[float]]


def gate_named(name: str) -> dict:
    gate = GATES.get(name.lower())
    if gate is None:
        raise HTTPException(404, f"There is no gate {name}, only {', '.join(GATES)}")
    return gate


def answer(gate: dict, inputs: list[float]) -> int:
    if len(inputs) != len(gate["weights"]):
        raise HTTPException(400, f"This gate takes {len(gate['weights'])} inputs, not {len(inputs)}")
    return int(sum(w * x for w, x in zip(gate["weights"], inputs, strict=True)) + gate["bias"] >= 0)


@app.get("/")
def root():
    return {"Hello": "World"}


@app.get("/items/{item_id}")
def item(item_id: int):
    return {"item_id": item_id}


@app.get("/predict/NOT/{x}")
def predict_not(x: int):
    return {"result": answer(GATES["not"], [x])}


@app.get("/predict/{gate}/{left}/{right}")
def predict_gate(gate: str, left: int, right: int):
    return {"result": answer(gate_named(gate), [left, right])}


@app.post("/v1/models/{name}:predict")
def predict(name: str, body: Instances):
    gate = gate_named(name)
    return {"predictions": [answer(gate, row) for row in body.instances]}
