"""Logic gates as one neuron each: it fires when the weighted sum of its inputs passes a threshold."""

from typing import Literal

Bit = Literal[0, 1]


class Neuron:
    """Weights and a bias found by hand; training comes later."""

    def __init__(self, *weights: float, bias: float) -> None:
        self.weights = weights
        self.bias = bias

    def __call__(self, *inputs: int) -> Bit:
        total = self.bias + sum(weight * value for weight, value in zip(self.weights, inputs, strict=True))
        return 1 if total >= 0 else 0


AND = Neuron(0.5, 0.5, bias=-0.75)
OR = Neuron(0.5, 0.5, bias=-0.25)
NOT = Neuron(-0.5, bias=0.25)


def and_gate(left: Bit, right: Bit) -> Bit:
    """1 if both are 1."""
    return AND(left, right)


def or_gate(left: Bit, right: Bit) -> Bit:
    """1 if at least one is 1."""
    return OR(left, right)


def not_gate(x: Bit) -> Bit:
    """The other one."""
    return NOT(x)
