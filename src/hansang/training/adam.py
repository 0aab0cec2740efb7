"""Adam (Kingma and Ba, 2015), for PyTorch tensors.

Not torch.optim's: the first use of that one imports PyTorch's compiler, which takes longer than to learn XOR.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Moves parameters against their gradients, each by a step of about `rate`."""

    def __init__(self, torch: Any, parameters: Iterable[Any], rate: float) -> None:
        self._no_grad = torch.no_grad
        self._rate = rate
        self._steps = 0
        self._state = [(one, torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]

    def step(self, loss: Any) -> None:
        """One step down the gradient of `loss`."""
        loss.backward()
        self._steps += 1
        rate = self._rate / (1 - _BETA1**self._steps)
        scale = (1 - _BETA2**self._steps) ** -0.5
        with self._no_grad():
            for parameter, mean, square in self._state:
                gradient = parameter.grad
                mean.lerp_(gradient, 1 - _BETA1)
                square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
                parameter.addcdiv_(mean, square.sqrt().mul_(scale).add_(_EPSILON), value=-rate)
                parameter.grad = None
