"""A trained network as an ONNX graph, its standardising and its classes inside, so that any runtime gets it right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hansang.core.errors import BadRequest, LoadFailed

_OPSET = 19
_IR = 9


def save_onnx(record: Mapping[str, Any], file: Path) -> Path:
    """Write a `hansang.mlp` record as a graph with one input per column, each `[rows]`."""
    try:
        import onnx
    except ImportError:
        raise LoadFailed("Saving as ONNX needs the package onnx.", hint='pip install "hansang[torch]"') from None
    if taken := {"result", "probability"} & {column["name"] for column in record["inputs"]}:
        raise BadRequest(
            f"A column is named {min(taken)!r}, as the answer is; in ONNX every name may stand once.",
            hint="Rename the column, or save in another format.",
            param="format",
            code="invalid_data",
        )
    builder = _Builder(onnx, record)
    onnx.save(builder.build(), file)
    return file


class _Builder:
    def __init__(self, onnx: Any, record: Mapping[str, Any]) -> None:
        self.onnx = onnx
        self.record = record
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def build(self) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        inputs = []
        for column in self.record["inputs"]:
            kind = types.STRING if "categories" in column else types.DOUBLE
            inputs.append(helper.make_tensor_value_info(column["name"], kind, ["rows"]))
        value = self.op("Concat", [self._features(column) for column in self.record["inputs"]], axis=1)
        layers = self.record["layers"]
        for number, layer in enumerate(layers):
            weight, bias = self.constant(layer["weight"], "float32"), self.constant(layer["bias"], "float32")
            value = self.op("Gemm", [value, weight, bias], transB=1)
            if number < len(layers) - 1:
                value = self.op({"tanh": "Tanh", "relu": "Relu"}[self.record["activation"]], [value])
        outputs = self._answers(value)
        graph = helper.make_graph(self.nodes, "mlp", inputs, outputs, self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR, producer_name="hansang"
        )

    def _features(self, column: Mapping[str, Any]) -> str:
        flat = self.op("Reshape", [column["name"], self.constant([-1, 1], "int64")])
        if "categories" in column:
            same = self.op("Equal", [flat, self.constant([column["categories"]], None)])
            return self.op("Cast", [same], to=self.onnx.TensorProto.FLOAT)
        centred = self.op("Sub", [flat, self.constant([column["mean"]], "float64")])
        scaled = self.op("Div", [centred, self.constant([column["std"]], "float64")])
        return self.op("Cast", [scaled], to=self.onnx.TensorProto.FLOAT)

    def _answers(self, value: str) -> list[Any]:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        target = self.record["target"]
        if target["kind"] == "number":
            flat = self.op("Reshape", [value, self.constant([-1], "int64")])
            wide = self.op("Cast", [flat], to=types.DOUBLE)
            scaled = self.op("Mul", [wide, self.constant([target["std"]], "float64")])
            self.op("Add", [scaled, self.constant([target["mean"]], "float64")], output="result")
            return [helper.make_tensor_value_info("result", types.DOUBLE, ["rows"])]
        if target["kind"] == "binary":
            flat = self.op("Reshape", [value, self.constant([-1], "int64")])
            self.op("Sigmoid", [flat], output="probability")
            yes = self.op("GreaterOrEqual", ["probability", self.constant(0.5, "float32")])
            self.op("Cast", [yes], output="result", to=types.INT64)
            kind = types.INT64
        else:
            shares = self.op("Softmax", [value], axis=1)
            best = self.op("ArgMax", [shares], axis=1, keepdims=0)
            text = isinstance(target["classes"][0], str)
            labels = self.constant(target["classes"], None if text else "int64")
            self.op("Gather", [labels, best], output="result")
            self.op("ReduceMax", [shares, self.constant([1], "int64")], output="probability", keepdims=0)
            kind = types.STRING if text else types.INT64
        return [
            helper.make_tensor_value_info("result", kind, ["rows"]),
            helper.make_tensor_value_info("probability", types.FLOAT, ["rows"]),
        ]

    def op(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """One node; the name of its output."""
        self._count += 1
        output = output or f"/{kind.lower()}_{self._count}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: Any, dtype: str | None) -> str:
        """A constant tensor; `dtype` None for text."""
        import numpy as np

        self._count += 1
        array = np.array(values, dtype=np.object_ if dtype is None else dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(array, f"/constant_{self._count}"))
        return f"/constant_{self._count}"
