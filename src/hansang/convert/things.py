"""What converters know how to write: what a file turned out to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Record:
    """A perceptron or a network of ours, as plain numbers."""

    data: Mapping[str, Any]
    what = "a perceptron or a network of ours"


@dataclass(frozen=True, slots=True)
class Tensors:
    """Arrays of NumPy or PyTorch, by name."""

    arrays: Mapping[str, Any]
    what = "arrays without the network they belong to (name its class: --class nets.py:Net)"


@dataclass(frozen=True, slots=True)
class Estimator:
    """Of scikit-learn, fitted."""

    estimator: Any
    what = "a scikit-learn estimator"


@dataclass(frozen=True, slots=True)
class Module:
    """A `torch.nn.Module`, with the shape of a row where it is known."""

    module: Any
    row: tuple[int | None, ...] | None
    dtype: str
    what = "a PyTorch module"


Thing: TypeAlias = Record | Tensors | Estimator | Module
