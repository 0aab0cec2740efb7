"""A perceptron as an ONNX graph that adds up in the same order as `runtimes.perceptron`, in the same precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hansang.core.errors import LoadFailed

_OPSET = 19
_IR = 9


def perceptron_graph(names: Sequence[str], weights: Sequence[float], bias: float) -> bytes:
    """One input per weight, each `[rows]`; `result` is 1 where the weighted sum plus the bias is at least 0."""
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise LoadFailed("Saving as ONNX needs the package onnx.", hint='pip install "hansang[torch]"') from None
    values = {**{f"w.{name}": weight for name, weight in zip(names, weights, strict=True)}, "bias.": bias, "zero.": 0.0}
    constants = [helper.make_tensor(name, TensorProto.DOUBLE, [], [value]) for name, value in values.items()]
    nodes: list[Any] = []

    def op(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    total = "zero."
    for name in names:
        total = op("Add", [total, op("Mul", [name, f"w.{name}"], f"part.{name}")], f"sum.{name}")
    yes = op("GreaterOrEqual", [op("Add", [total, "bias."], "total."), "zero."], "yes.")
    op("Cast", [yes], "result", to=TensorProto.INT64)
    inputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows"]) for name in names]
    output = helper.make_tensor_value_info("result", TensorProto.INT64, ["rows"])
    graph = helper.make_graph(nodes, "perceptron", inputs, [output], constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="hansang")
    return bytes(model.SerializeToString())
