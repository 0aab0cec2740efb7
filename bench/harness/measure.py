"""Measures one workload: its servers take turns, A B C A B C, so that what else the machine does hits all alike.

Gives rows (plain dicts, one per server, concurrency and repetition); adding them up is `report`'s business.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

from harness.load import drive, first_event
from harness.process import NotReady, Running
from harness.servers import Server
from harness.workloads import Workload

Row: TypeAlias = dict[str, Any]
IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """How often, how long, with how many connections; empty `servers` and `conc`: as the workload says."""

    reps: int = 3
    seconds: int = 3
    conc: Sequence[int] = ()
    servers: Sequence[str] = ()
    patience: int = 0
    """How often a run that other programs disturbed is made again."""


def measure(workload: Workload, plan: Plan) -> list[Row]:
    """All rows. Servers that are not installed, or do not come up, are left out and named on stderr."""
    chosen = [server for server in workload.servers if not plan.servers or server.name in plan.servers]
    present = [server for server in chosen if server.installed]
    if left_out := [server.name for server in chosen if not server.installed]:
        _say(f"{workload.key}: not installed, left out: {', '.join(left_out)} (bench/peers makes them)")
    workload.prepare()
    if workload.kind == "cold":
        return _cold(workload, present, plan)
    with ExitStack() as stack:
        running = _start(workload, present, stack)
        return _turns(workload, running, plan)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _start(workload: Workload, servers: Sequence[Server], stack: ExitStack) -> list[Running]:
    """Those that come up and give the right answer."""
    sample, expected = workload.sample(), workload.answer
    running = []
    for server in servers:
        candidate = stack.enter_context(Running(server, workload.work, sample))
        try:
            reply = candidate.wait_for_answer()
        except NotReady as exc:
            _say(f"{workload.key}: left out: {exc}")
            continue
        if workload.kind == "requests":
            answer = server.api.result(reply)
            expected = answer if expected is None else expected
            if not math.isclose(answer, expected, rel_tol=1e-4):
                _say(f"{workload.key}: left out: {server.name} answers {answer}, expected {expected}")
                continue
        running.append(candidate)
    return running


def _turns(workload: Workload, running: Sequence[Running], plan: Plan) -> list[Row]:
    events = {each.server.name: _events(each) if workload.kind == "stream" else 1 for each in running}
    for each in running:
        drive(each, 8, 1, whole=workload.whole)
    rows = []
    for rep in range(plan.reps):
        for conc in plan.conc or workload.conc:
            for each in running:
                name = each.server.name
                found = drive(each, conc, plan.seconds * workload.stretch, whole=workload.whole, patience=plan.patience)
                found["cpu_us"] /= events[name]
                if workload.kind == "stream":
                    found |= {"events": events[name], "eps": found["rps"] * events[name]}
                    if conc == 1:
                        found["first_ms"] = first_event(each)
                rows.append({"workload": workload.key, "server": name, "conc": conc, "rep": rep, **found})
                _say(f"{workload.key} #{rep + 1} {name:17} c={conc:<3} {found['cpu_us']:8.1f} us {found['rps']:8.0f}/s")
    return rows


def _events(running: Running) -> int:
    return running.ask()[1].count(b"data:")


def _cold(workload: Workload, servers: Sequence[Server], plan: Plan) -> list[Row]:
    """Each is started `reps` times, after one start that does not count (it fills the caches)."""
    rows = []
    for rep in range(-1, plan.reps):
        for server in servers:
            load = os.getloadavg()[0]
            with Running(server, workload.work, None) as running:
                ready = running.wait_for_health(server.api.path)
                found = {"ready_ms": 1e3 * ready, "cpu_s": running.cpu(), "load": load, "void": None}
                if rep >= 0:
                    time.sleep(1.0)
                    found |= running.memory() | {"idle": _idle(running)}
                    rows.append({"workload": workload.key, "server": server.name, "conc": 0, "rep": rep, **found})
                    _say(f"{workload.key} #{rep + 1} {server.name:17} ready in {found['ready_ms']:.0f} ms")
    return rows


def _idle(running: Running) -> float:
    """The share of a core that it uses while nobody asks."""
    before = running.cpu()
    time.sleep(IDLE_SECONDS)
    return (running.cpu() - before) / IDLE_SECONDS
