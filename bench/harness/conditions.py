"""Under which conditions the figures were taken, in a few words that name no machine.

Quiet: other programs used less than a fifth of a core. Where they used more, wall-clock figures (requests per second,
milliseconds) are indicative, and only CPU figures and ratios count.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from harness.load import QUIET
from harness.measure import Plan, Row
from harness.workloads import Workload

_PACKAGES = ("hansang", "uvicorn", "uvloop", "fastapi", "pydantic", "orjson", "onnxruntime")


def describe(rows: Sequence[Row], plan: Plan, workload: Workload) -> str:
    """Markdown lines: when, on what, how quiet, how often."""
    loads = [row["load"] for row in rows]
    others = [row["others"] for row in rows if "others" in row]
    runs = f"{plan.reps} repetitions" + (f" of {plan.seconds * workload.stretch} s" if workload.kind != "cold" else "")
    noise = f"load average {min(loads):.1f} to {max(loads):.1f} (the bench itself makes up to 2)"
    if others:
        middle = statistics.median(others)
        word = "quiet" if middle < QUIET else "busy"
        noise = f"{word}: other programs used {middle:.2f} of a core (median; at most {max(others):.2f}), {noise}"
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {os.cpu_count()} cores ({platform.machine()}), "
        f"{platform.system()}, Python {platform.python_version()}; {packages}.\n"
        f"{runs}, in turns, medians; the server on one core, the load on the other. {noise[0].upper()}{noise[1:]}."
    )
