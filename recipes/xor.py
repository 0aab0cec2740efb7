"""Trains XOR, which one perceptron cannot learn: a net of 2, 8 and 1 neurons, by gradient descent in numpy.

python recipes/xor.py

The forward pass, the gradient and Adam are written out, so that a reader sees all of it. The net is saved as ONNX with
two named inputs and two outputs: the `result` (0 or 1) and the `probability` of a 1.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import card
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SEED = 0
HIDDEN = 8
STEPS = 200
RATE = 0.05
ROWS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
TARGETS = np.array([[0], [1], [1], [0]], dtype=np.float64)


def forward(weights: dict[str, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the hidden neurons say, and the probability of a 1."""
    hidden = np.tanh(rows @ weights["w1"] + weights["b1"])
    return hidden, 1 / (1 + np.exp(-(hidden @ weights["w2"] + weights["b2"])))


def gradient(weights: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """The mean cross-entropy over the four rows, and its slope in every weight."""
    hidden, probability = forward(weights, ROWS)
    loss = -np.mean(TARGETS * np.log(probability) + (1 - TARGETS) * np.log(1 - probability))
    at_output = (probability - TARGETS) / len(ROWS)
    at_hidden = at_output @ weights["w2"].T * (1 - hidden**2)
    slopes = {"w1": ROWS.T @ at_hidden, "b1": at_hidden.sum(0), "w2": hidden.T @ at_output, "b2": at_output.sum(0)}
    return float(loss), slopes


def train() -> tuple[dict[str, np.ndarray], float]:
    """Adam, for a fixed number of steps; the weights and the last loss."""
    chance = np.random.default_rng(SEED)
    weights = {
        "w1": chance.uniform(-1, 1, (2, HIDDEN)) / np.sqrt(2),
        "b1": chance.uniform(-1, 1, HIDDEN) / np.sqrt(2),
        "w2": chance.uniform(-1, 1, (HIDDEN, 1)) / np.sqrt(HIDDEN),
        "b2": chance.uniform(-1, 1, 1) / np.sqrt(HIDDEN),
    }
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    loss = 0.0
    for step in range(1, STEPS + 1):
        loss, slopes = gradient(weights)
        for name, slope in slopes.items():
            mean[name] = 0.9 * mean[name] + 0.1 * slope
            square[name] = 0.999 * square[name] + 0.001 * slope**2
            size = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
            weights[name] -= RATE * mean[name] / (1 - 0.9**step) / size
    return weights, loss


def save(path: Path, weights: dict[str, np.ndarray]) -> None:
    """As ONNX: two columns in, two columns out."""
    nodes = [
        helper.make_node("Unsqueeze", ["left", "columns"], ["left_column"]),
        helper.make_node("Unsqueeze", ["right", "columns"], ["right_column"]),
        helper.make_node("Concat", ["left_column", "right_column"], ["rows"], axis=1),
        helper.make_node("Gemm", ["rows", "w1", "b1"], ["sums"]),
        helper.make_node("Tanh", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logit"]),
        helper.make_node("Squeeze", ["logit", "columns"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("GreaterOrEqual", ["probability", "half"], ["over"]),
        helper.make_node("Cast", ["over"], ["result"], to=TensorProto.INT64),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "xor",
        [value(name, TensorProto.FLOAT, ["N"], "0 or 1") for name in ("left", "right")],
        [
            value("result", TensorProto.INT64, ["N"], "1 if exactly one input is 1"),
            value("probability", TensorProto.FLOAT, ["N"], "how sure the net is of a 1"),
        ],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "columns"),
            numpy_helper.from_array(np.array(0.5, dtype=np.float32), "half"),
        ],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9, producer_name="hansang recipes/xor.py")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def evaluate(path: Path) -> dict[str, float]:
    """How the saved file answers the four rows."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    left, right = ROWS.T.astype(np.float32)
    result, probability = session.run(["result", "probability"], {"left": left, "right": right})
    sure = np.where(TARGETS[:, 0] == 1, probability, 1 - probability)
    return {"accuracy": float((result == TARGETS[:, 0]).mean()), "least_probability": round(float(sure.min()), 4)}


def main() -> None:
    """Train, measure, and write the model and its card."""
    path = card.folder(__doc__) / "xor.onnx"
    began = time.process_time()
    weights, loss = train()
    seconds = time.process_time() - began
    save(path, weights)
    card.write(
        path,
        title={"en": "XOR, a small neural net", "ko": "XOR, 작은 신경망"},
        task="tabular",
        architecture=f"2-{HIDDEN}-1 net, tanh, sigmoid",
        parameters=sum(array.size for array in weights.values()),
        data="the 4 rows of the truth table, written in the recipe",
        training={
            "script": "recipes/xor.py",
            "seed": SEED,
            "rule": f"full-batch Adam, rate {RATE}, cross-entropy",
            "steps": STEPS,
            "last_loss": round(loss, 6),
            "cpu_seconds": round(seconds, 4),
        },
        metrics={**evaluate(path), "test_set": "all 4 rows, which are the training data"},
        limits="0 and 1 only; between them the answer is whatever the net makes of it",
    )


if __name__ == "__main__":
    main()
