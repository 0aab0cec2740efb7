"""One running server: started on a core of its own, watched with all its children, stopped by its process id.

CPU is read from the kernel's clock of each process (nanoseconds, all threads, user and system), not from ticks.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import orjson
import psutil

from harness.servers import OUT, Server

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
_START_LIMIT = 60.0


class NotReady(Exception):
    """The server did not answer; the message says where its log is."""


class Running:
    """A context: started on entry, ended (with its children) on exit."""

    def __init__(self, server: Server, work: str, sample: Any) -> None:
        self.server = server
        self.work = work
        self.port, *more = _free_ports(3)
        self.path = server.api.path
        self.body = orjson.dumps(server.api.body(sample), option=orjson.OPT_SERIALIZE_NUMPY)
        self.log = OUT / "logs" / f"{work}-{server.name}.log"
        self._env = _environment(server, work, [self.port, *more])

    def __enter__(self) -> Running:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = ["taskset", "-c", str(SERVER_CORE), *self.server.command(self.port)]
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.server.folder, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *exc: object) -> None:
        """SIGTERM to the server; what is left of its tree after ten seconds is killed."""
        tree = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=10)
        for process in left:
            process.kill()
        self._process.wait()

    def wait_for_answer(self) -> Any:
        """Ask until it answers 200; the decoded answer, or its text where it is a stream."""
        said: object = "nothing"
        while self._starting(said):
            try:
                status, body = self.ask()
            except (OSError, http.client.HTTPException) as exc:
                said = repr(exc)
            else:
                if status == 200:
                    return body.decode() if body.startswith(b"data:") else orjson.loads(body)
                said = f"{status} {body[:500]!r}"
            time.sleep(0.1)
        return None

    def wait_for_health(self, path: str) -> float:
        """Seconds from start to the first 200 on `path`."""
        while self._starting("nothing"):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
                connection.request("GET", path)
                status = connection.getresponse().status
                connection.close()
            except OSError:
                status = 0
            if status == 200:
                return time.monotonic() - self.started
            time.sleep(0.002)
        return 0.0

    def _starting(self, said: object) -> bool:
        """True while it may still come. Raises NotReady."""
        if self._process.poll() is not None:
            raise NotReady(f"{self.server.name} ended with status {self._process.returncode}; see {_shown(self.log)}")
        if time.monotonic() - self.started > _START_LIMIT:
            raise NotReady(f"{self.server.name} did not answer 200 but {said}; see {_shown(self.log)}")
        return True

    def ask(self) -> tuple[int, bytes]:
        """One request of the workload: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", self.path, self.body, self.headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **self.server.headers}

    def tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """Seconds of CPU that the living processes of the tree have used."""
        return sum(map(_cpu_of, self.tree()))

    def memory(self) -> dict[str, float]:
        """Resident and proportional MiB, and how many processes share them."""
        infos = [process.memory_full_info() for process in self.tree()]
        return {
            "rss_mb": sum(info.rss for info in infos) / 2**20,
            "pss_mb": sum(info.pss for info in infos) / 2**20,
            "processes": len(infos),
        }


def _cpu_of(process: psutil.Process) -> float:
    try:
        # The id that clock_getcpuclockid(3) makes of a process id.
        return time.clock_gettime(~process.pid << 3 | 2)
    except OSError:
        return 0.0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _environment(server: Server, work: str, ports: list[int]) -> dict[str, str]:
    """Ours, without settings of a hansang that is not measured, one thread per library."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HANSANG_", "PYTHON"))}
    names = ("PORT", "PORT_2", "PORT_3")
    env |= {name: str(port) for name, port in zip(names, ports, strict=True)}
    env |= {"BENCH_WORK": work, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return env | {name: value.replace("{port}", str(ports[0])) for name, value in server.env.items()}


def _shown(path: Path) -> str:
    return f"bench/{path.relative_to(OUT.parent)}"
