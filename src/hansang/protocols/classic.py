"""The classic routes: one prediction in an address, as a first web API has it.

    GET /items/7              -> {"item_id": 7}
    GET /predict/AND/1/1      -> {"result": 1}
    GET /predict/NOT/1        -> {"result": 0}

A gate is any model of one or two numeric inputs; upper and lower case are the same. Errors are `{"error": "text"}`
with an honest status. Training is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from hansang.core.errors import BadRequest, Conflict, ModelNotFound
from hansang.core.signature import FLOATS, INTEGERS
from hansang.core.wire import CONTEXT, Route
from hansang.engine.engine import Engine
from hansang.protocols.json_text import dumps
from hansang.protocols.tabular_codec import codec_of
from hansang.registry.registry import Entry
from hansang.tasks.gates import GATES
from hansang.tasks.tabular import TABULAR, Table

_NUMERIC = ("bool", *INTEGERS, *FLOATS)


class Item(BaseModel):
    """The number that was asked for."""

    item_id: int


class Result(BaseModel):
    """What the gate answers."""

    result: Any


class Classic:
    """The adapter: control-plane routes only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.router = APIRouter(tags=["classic"])
        add = self.router.get
        add("/items/{item_id}", operation_id="classic_item", summary="An item")(self.read_item)
        two, one = "/predict/{gate}/{left}/{right}", "/predict/{gate}/{x}"
        add(two, operation_id="classic_two", summary="A gate of two inputs", response_model=Result)(self.predict_two)
        add(one, operation_id="classic_one", summary="A gate of one input", response_model=Result)(self.predict_one)

    def routes(self) -> Sequence[Route]:
        return ()

    def openapi(self) -> Mapping[str, Any]:
        return {}

    async def read_item(self, item_id: int) -> Item:
        """The number that was asked for."""
        return Item(item_id=item_id)

    async def predict_two(self, gate: str, left: int, right: int, request: Request) -> Response:
        """The answer of the model `gate` to `left` and `right`: AND, OR, XOR or any other of two numeric inputs."""
        return await self._predict(gate, (left, right), request)

    async def predict_one(self, gate: str, x: int, request: Request) -> Response:
        """The answer of the model `gate` to `x`: NOT, or any other of one numeric input."""
        return await self._predict(gate, (x,), request)

    async def _predict(self, gate: str, values: Sequence[int], request: Request) -> Response:
        entry = self._engine.entry(self._name(gate, len(values), str(request.base_url)), TABULAR)
        if not _is_gate(entry, len(values)):
            raise BadRequest(
                f"{entry.name} takes {_inputs(entry)}; this route asks it with {len(values)}.",
                hint=f"POST /v1/models/{entry.name}:predict takes any row.",
                param="gate",
                code="invalid_input",
            )
        codec = codec_of(entry)
        result: Table = await self._engine.predict(entry, codec.row(values), request.scope[CONTEXT])
        columns = {name: column[0] for name, column in result.columns.items()}
        value = columns.get("result", columns) if len(columns) > 1 else next(iter(columns.values()))
        return Response(dumps({"result": value}, entry.name), media_type="application/json")

    def _name(self, gate: str, inputs: int, base: str) -> str:
        """The model that is meant. Raises Conflict for a gate to train first, or ModelNotFound with those there are."""
        names = [entry.name for entry in self._engine.registry]
        plain, at, version = gate.partition("@")
        for name in (plain, *names):
            if name in names and name.casefold() == plain.casefold():
                return name + at + version
        if (known := plain.lower()) in GATES and not at:
            raise Conflict(
                f"The gate {plain} is not trained yet.",
                hint=f"Train it: curl -X POST {base.rstrip('/')}/train/{known}",
                code="not_trained",
            )
        gates = sorted(entry.name for entry in self._engine.registry if _is_gate(entry, inputs))
        raise ModelNotFound(
            f"There is no gate {gate!r} here.",
            hint=f"Gates of {inputs}: {', '.join(gates)}." if gates else "None is loaded.",
            param="gate",
        )


def _is_gate(entry: Entry, inputs: int) -> bool:
    signature = entry.model.signature
    if entry.model.task is not TABULAR or signature is None or len(signature.inputs) != inputs:
        return False
    return all(field.dtype in _NUMERIC and not field.shape for field in signature.inputs)


def _inputs(entry: Entry) -> str:
    """What a model takes, in words."""
    signature = entry.model.signature
    if signature is None:
        return "any JSON"
    fields = ", ".join(f"{field.name}: {field.describe()}" for field in signature.inputs)
    count = len(signature.inputs)
    return f"{count} input{'' if count == 1 else 's'} ({fields})"
