"""What a model weighs, and whether this machine can hold it. Arithmetic only: nothing is loaded here.

Bytes are parameters times bytes per parameter: 3 parameters x 8 bytes = 24 bytes. What a model needs besides its
parameters (activations, a chat model's cache) is not in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansang.core.model import Model

WIDTHS = {"fp64": 8, "fp32": 4, "fp16": 2, "int8": 1}
"""Bytes per parameter in each form a model is commonly kept in."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this machine (or of the container we are in)."""

    total: int
    available: int


def machine_memory() -> Memory:
    """Memory now. A container's limit counts as its machine's."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total = available = pages * size
    if (stated := _number_in(Path("/proc/meminfo"), r"MemAvailable:\s*(\d+) kB")) is not None:
        available = stated * 1024
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"), r"(\d+)")
    if limit is not None and limit < total:
        used = _number_in(Path("/sys/fs/cgroup/memory.current"), r"(\d+)") or 0
        total, available = limit, min(available, max(0, limit - used))
    return Memory(total, available)


def _number_in(path: Path, pattern: str) -> int | None:
    try:
        found = re.search(pattern, path.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) if found else None


def width(dtype: str) -> float:
    """Bytes of one parameter: 8 of `float64`, half of one of `int4`."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1


def fits(parameters: int, memory: Memory) -> dict[str, dict[str, Any]]:
    """For each common form: the bytes, and whether they fit what is available now."""
    needs = {form: parameters * size for form, size in WIDTHS.items()}
    return {form: {"bytes": need, "fits": need <= memory.available} for form, need in needs.items()}


def report(name: str, model: Model, memory: Memory) -> dict[str, Any]:
    """All that is known of a loaded model, as JSON has it."""
    info = dict(model.info)
    counts: Mapping[str, int] = info.pop("parameters", None) or {}
    total = sum(counts.values())
    signature = model.signature
    return {
        "name": name,
        "format": info.pop("format", type(model).__name__),
        "task": model.task.name,
        "signature": signature.describe() if signature else None,
        "parameters": total if counts else None,
        "bytes": info.pop("bytes", None),
        "dtypes": {dtype: {"parameters": count, "bytes": int(count * width(dtype))} for dtype, count in counts.items()},
        "memory": {"total": memory.total, "available": memory.available},
        "fits": fits(total, memory) if counts else {},
        **info,
    }


def size(count: float) -> str:
    """`24 bytes`, `1.5 GiB`."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
