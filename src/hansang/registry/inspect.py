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


def report(name: str, task: str, signature: str | None, info: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
    """What is known of a model, with its weight on this machine. `info` is the model's own."""
    rest = dict(info)
    counts: Mapping[str, int] = rest.pop("parameters", None) or {}
    dtypes = {dtype: {"parameters": count, "bytes": int(count * width(dtype))} for dtype, count in counts.items()}
    return {
        "name": name,
        "format": rest.pop("format", None),
        "task": task,
        "signature": signature,
        "bytes": rest.pop("bytes", None),
        "dtypes": dtypes,
        **(arithmetic(sum(counts.values()), memory) if counts else {"parameters": None}),
        **rest,
    }


def arithmetic(parameters: int, memory: Memory) -> dict[str, Any]:
    """So many parameters in each common form: the bytes, and whether they fit into what is available now."""
    needs = {form: parameters * size for form, size in WIDTHS.items()}
    return {
        "parameters": parameters,
        "memory": {"total": memory.total, "available": memory.available},
        "fits": {form: {"bytes": need, "fits": need <= memory.available} for form, need in needs.items()},
    }


def size(count: float) -> str:
    """`24 bytes`, `1.5 GiB`."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
