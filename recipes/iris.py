"""Trains a classifier of Fisher's iris flowers: scikit-learn's logistic regression on standardised measures.

python recipes/iris.py

Three quarters of the flowers teach it, the rest test it. Saved as ONNX by skl2onnx, with four named inputs put in
front and the outputs named `species` and `probabilities`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import card
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 0
INPUTS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def flowers() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The 150 flowers: four measures in centimetres, the species of each, and the names of the species."""
    data = load_iris()
    names = [str(name) for name in data.target_names]
    return data.data, np.array(names)[data.target], names


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measures to learn from and to test with, species to learn from and to test with."""
    measures, species, _ = flowers()
    parts = train_test_split(measures, species, test_size=0.25, stratify=species, random_state=SEED)
    return parts[0], parts[1], parts[2], parts[3]


def save(path: Path, model: Pipeline, names: list[str]) -> None:
    """As ONNX: four columns in, the species and its probabilities out."""
    converted = to_onnx(
        model,
        initial_types=[("measures", FloatTensorType([None, 4]))],
        options={"zipmap": False},
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    graph = converted.graph
    renamed = {graph.output[0].name: "species", graph.output[1].name: "probabilities"}
    for node in graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = renamed.get(name, name)
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    graph.node.insert(0, helper.make_node("Concat", INPUTS, ["measures"], axis=1))
    value = helper.make_tensor_value_info
    del graph.input[:], graph.output[:]
    graph.input.extend(value(name, TensorProto.FLOAT, ["N", 1], "centimetres") for name in INPUTS)
    graph.output.append(value("species", TensorProto.STRING, ["N"]))
    graph.output.append(value("probabilities", TensorProto.FLOAT, ["N", len(names)], f"of {', '.join(names)}"))
    graph.name = "iris"
    converted.producer_name, converted.producer_version = "hansang recipes/iris.py", ""
    helper.set_model_props(converted, {"labels": json.dumps(names)})
    onnx.checker.check_model(converted, full_check=True)
    path.write_bytes(converted.SerializeToString(deterministic=True))


def evaluate(path: Path) -> float:
    """The share of the test flowers that the saved file names rightly."""
    _, measures, _, species = split()
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    columns = {name: measures[:, [place]].astype(np.float32) for place, name in enumerate(INPUTS)}
    (named,) = session.run(["species"], columns)
    return float((named == species).mean())


def main() -> None:
    """Train, measure, and write the model and its card."""
    path = card.folder(__doc__) / "iris.onnx"
    measures, species, names = flowers()
    learn, test, learn_species, _ = split()
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = cross_val_score(model, measures, species, cv=StratifiedKFold(10, shuffle=True, random_state=SEED))
    began = time.process_time()
    model.fit(learn, learn_species)
    seconds = time.process_time() - began
    save(path, model, names)
    scaler, regression = (step for _, step in model.steps)
    card.write(
        path,
        title={"en": "Iris species from four measures", "ko": "네 가지 길이로 알아보는 붓꽃 품종"},
        task="tabular",
        architecture="standardised measures, multinomial logistic regression",
        parameters=sum(array.size for array in (scaler.mean_, scaler.scale_, regression.coef_, regression.intercept_)),
        data="150 iris flowers of 3 species (R. A. Fisher 1936, measured by E. Anderson), as scikit-learn ships them",
        training={
            "script": "recipes/iris.py",
            "seed": SEED,
            "rule": f"lbfgs, L2 penalty, C=1, on {len(learn)} flowers",
            "steps": int(regression.n_iter_.max()),
            "cpu_seconds": round(seconds, 4),
        },
        metrics={
            "accuracy": round(evaluate(path), 4),
            "test_set": f"{len(test)} flowers that it did not learn from, stratified, seed {SEED}",
            "cross_validation": f"{folds.mean():.3f} +- {folds.std():.3f} (10 folds of all 150, same recipe)",
        },
        limits="these three species, measures in centimetres; any other flower is given one of the three names",
        licence=f"{card.LICENCE}; the data are published in Fisher 1936 and come with scikit-learn (BSD-3-Clause)",
    )


if __name__ == "__main__":
    main()
