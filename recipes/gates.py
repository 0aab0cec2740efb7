"""Trains the gates AND, OR, NOT and NAND, each one perceptron, and shows that XOR is beyond one.

python recipes/gates.py

Rosenblatt's rule: for every row, add rate x error x input to each weight and rate x error to the bias, until a whole
epoch passes without an error. Plain Python: the same seed gives the same bits on every machine.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence

import card

SEED = 0
RATE = 0.1
MOST_EPOCHS = 100
PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1)]
GATES = {
    "and": (PAIRS, [0, 0, 0, 1]),
    "or": (PAIRS, [0, 1, 1, 1]),
    "nand": (PAIRS, [1, 1, 1, 0]),
    "not": ([(0,), (1,)], [1, 0]),
}
NAMES = {2: ["left", "right"], 1: ["x"]}
Perceptron = tuple[list[float], float]


def answer(perceptron: Perceptron, row: Sequence[int]) -> int:
    """1 if the weighted sum reaches 0."""
    weights, bias = perceptron
    return 1 if sum(weight * value for weight, value in zip(weights, row, strict=True)) + bias >= 0 else 0


def train(rows: Sequence[Sequence[int]], targets: Sequence[int]) -> tuple[Perceptron, list[int]]:
    """The perceptron, and the number of errors in each epoch."""
    chance = random.Random(SEED)  # noqa: S311 - a start for training, not a secret
    weights = [chance.random() for _ in rows[0]]
    bias = chance.random()
    history: list[int] = []
    while len(history) < MOST_EPOCHS and (not history or history[-1]):
        wrong = 0
        for row, target in zip(rows, targets, strict=True):
            error = target - answer((weights, bias), row)
            weights = [weight + RATE * error * value for weight, value in zip(weights, row, strict=True)]
            bias += RATE * error
            wrong += error != 0
        history.append(wrong)
    return (weights, bias), history


def main() -> None:
    """Train, measure, and write the models and cards."""
    out = card.folder(__doc__)
    for name, (rows, targets) in GATES.items():
        began = time.process_time()
        (weights, bias), history = train(rows, targets)
        seconds = time.process_time() - began
        path = out / f"{name}.json"
        saved = {"weights": weights, "bias": bias, "inputs": NAMES[len(weights)]}
        path.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
        right = sum(answer((weights, bias), row) == target for row, target in zip(rows, targets, strict=True))
        card.write(
            path,
            title={"en": f"{name.upper()} gate", "ko": f"{name.upper()} 게이트"},
            task="tabular",
            architecture="one perceptron: a weighted sum and a step at 0",
            parameters=len(weights) + 1,
            data=f"the {len(rows)} rows of the truth table, written in the recipe",
            training={
                "script": "recipes/gates.py",
                "seed": SEED,
                "rule": f"perceptron, rate {RATE}, until an epoch without errors",
                "epochs": len(history),
                "errors_per_epoch": history,
                "cpu_seconds": round(seconds, 6),
            },
            metrics={"accuracy": right / len(rows), "test_set": f"all {len(rows)} rows, which are the training data"},
            limits="0 and 1 only; other numbers are weighed and stepped, which means nothing",
        )
    _, history = train(PAIRS, [0, 1, 1, 0])
    print(f"xor: one perceptron still makes {history[-1]} errors in epoch {len(history)}; see recipes/xor.py")


if __name__ == "__main__":
    main()
