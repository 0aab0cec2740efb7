"""Finds runtimes and protocols through entry points; the built-in ones come through the same door.

Nobody imports a runtime or a protocol by name. A plug-in adds one of its own in its `pyproject.toml`:

    [project.entry-points."hansang.runtimes"]
    mine = "my_package.runtime:MyRuntime"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

RUNTIMES = "hansang.runtimes"
PROTOCOLS = "hansang.protocols"
TRAINERS = "hansang.trainers"


@cache
def load(group: str) -> tuple[tuple[str, Any], ...]:
    """(name, class) of every plug-in of a group, ours first, then by name."""
    found = sorted(entry_points(group=group), key=lambda point: (not point.value.startswith("hansang."), point.name))
    return tuple((point.name, point.load()) for point in found)
