"""W2's model: the recipe of an ONNX file. 64-256-256-10, ReLU, argmax; seeded numbers, not trained for anything.

One file for every server, so that only serving differs.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

LAYERS = (64, 256, 256, 10)


def make(path: Path) -> None:
    """Write the file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        matrix = random.standard_normal((inputs, outputs)) / inputs**0.5
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{index}"))
        weights.append(numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{index}"))
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"h{index}"]))
        value = f"h{index}"
        if outputs != LAYERS[-1]:
            nodes.append(helper.make_node("Relu", [value], [f"r{index}"]))
            value = f"r{index}"
    nodes.append(helper.make_node("ArgMax", [value], ["result"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", LAYERS[0]])],
        [helper.make_tensor_value_info("result", TensorProto.INT64, ["rows"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
