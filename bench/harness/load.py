"""The load: wrk for many requests, a raw socket for the first event of a stream. Both on the other core.

wrk is closed-loop: each of its connections asks again as soon as it is answered. That shows cost and throughput, not
how a server behaves under more load than it can bear.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from typing import Any

from harness.process import LOAD_CORE, Running
from harness.servers import BENCH

QUIET = 0.2
"""Less than this share of a core used by other programs."""
_TICKS = os.sysconf("SC_CLK_TCK")


def missing() -> str | None:
    """What this machine lacks for a measurement, and how to get it."""
    if shutil.which("wrk") is None:
        return (
            "The bench needs wrk, the load generator: apt-get install wrk (Debian, Ubuntu), brew install wrk (macOS)."
        )
    if shutil.which("taskset") is None:
        return "The bench pins processes to cores with taskset (Linux, package util-linux)."
    return None


def drive(
    running: Running, connections: int, seconds: int, *, whole: bool = False, patience: int = 0
) -> dict[str, Any]:
    """Load it, and weigh what it cost. `void` says why a run does not count.

    A run that other programs disturbed is made again, `patience` times at most; the quietest counts, whatever it found.
    `whole`: requests so large that the one wrk abandons at the end would count; ask in turn instead, to the last byte.
    """
    found = _drive(running, connections, seconds, whole=whole)
    for _ in range(patience):
        if found["others"] < QUIET:
            break
        found = min(found, _drive(running, connections, seconds, whole=whole), key=lambda run: run["others"])
    return found


def _drive(running: Running, connections: int, seconds: int, *, whole: bool) -> dict[str, Any]:
    before, cpu, began = _others(), running.cpu(), time.monotonic()
    found = _in_turn(running, seconds) if whole else _wrk(running, connections, seconds)
    wall, cpu = time.monotonic() - began, running.cpu() - cpu
    others = max(0.0, _others() - before - cpu) / wall
    failed = {kind: found.pop(kind) for kind in ("non_2xx", "timeouts", "broken")}
    requests = found["requests"]
    return {
        **found,
        "rps": requests / found["seconds"],
        "cpu_us": 1e6 * cpu / max(1, requests),
        "core": cpu / wall,
        "others": others,
        "load": os.getloadavg()[0],
        "void": _why_void(failed, requests),
    }


def _why_void(failed: dict[str, int], requests: int) -> str | None:
    if any(failed.values()):
        return ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in failed.items() if count)
    return None if requests else "no answer at all"


def _wrk(running: Running, connections: int, seconds: int) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile() as body:
        body.write(running.body)
        body.flush()
        headers = [part for name, value in running.headers.items() for part in ("-H", f"{name}: {value}")]
        command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["--timeout", "30s", *headers, "-s", str(BENCH / "post.lua")]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{running.port}{running.path}"],
            env={**os.environ, "BENCH_BODY": body.name},
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("JSON "):
            found: dict[str, Any] = json.loads(line[5:])
            return found
    raise RuntimeError(f"wrk said nothing to us: {done.stdout[-300:]} {done.stderr[-300:]}")


def _in_turn(running: Running, seconds: int) -> dict[str, Any]:
    took, refused, began = [], 0, time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    while time.monotonic() - began < seconds:
        asked = time.monotonic()
        connection.request("POST", running.path, running.body, running.headers)
        reply = connection.getresponse()
        reply.read()
        refused += reply.status != 200
        took.append(1e3 * (time.monotonic() - asked))
    connection.close()
    found = {"requests": len(took), "seconds": time.monotonic() - began, "p50_ms": statistics.median(took)}
    return found | {"p99_ms": max(took), "non_2xx": refused, "timeouts": 0, "broken": 0}


def _others() -> float:
    """Seconds of CPU used by this machine, less what this program and its ended children used."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, irq, soft, stolen = map(int, stat.readline().split()[1:9])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + children.ru_utime + children.ru_stime
    return (user + nice + system + irq + soft + stolen) / _TICKS - own


def first_event(running: Running, times: int = 20) -> float:
    """Median milliseconds from sending the request to having the first event, on a new connection each."""
    lines = [f"POST {running.path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in running.headers.items()]
    lines += [f"Content-Length: {len(running.body)}", "", ""]
    request = "\r\n".join(lines).encode() + running.body
    return statistics.median(_first_event(running.port, request) for _ in range(times))


def _first_event(port: int, request: bytes) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        client.sendall(request)
        received = b""
        while b"data:" not in received:
            piece = client.recv(65536)
            if not piece:
                raise RuntimeError(f"the stream ended without an event: {received[:300]!r}")
            received += piece
        took = time.perf_counter() - began
        while client.recv(65536):
            pass
    return 1e3 * took
