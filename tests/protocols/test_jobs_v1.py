"""Jobs over HTTP: followed over a real socket, left and come back to, cancelled, listed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import Running
from hansang.jobs.jobs import Job, JobContext

Serve = Callable[..., Running]


class Work:
    """A job's work whose pace a test sets: `tell(n)` has it tell n more events, `finish` has it end."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self._finish = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, job: JobContext) -> Mapping[str, Any]:
        number = 0
        while not self._finish.is_set():
            if self._steps.acquire(timeout=0.01):
                number += 1
                job.event("step", {"number": number})
                time.sleep(0.001)
            job.check()
        if self.error is not None:
            raise self.error
        return {"steps": number}

    def tell(self, count: int) -> None:
        self._steps.release(count)

    def finish(self, error: BaseException | None = None) -> None:
        self.error = error
        self._finish.set()


def submit(server: Running, work: Callable[[JobContext], Mapping[str, Any]] | None = None) -> Job:
    return server.server.engine.jobs.submit("test", "model", {"why": "test"}, work or (lambda job: {"done": True}))


class Reader:
    """Reads a job's events over a socket of its own."""

    def __init__(self, server: Running, job: str, last: int | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        after = "" if last is None else f"Last-Event-ID: {last}\r\n"
        head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{after}\r\n"
        self.socket.sendall(head.encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def __iter__(self) -> Iterator[tuple[int, str, Any]]:
        number, kind = 0, ""
        for line in self._file:
            key, _, value = line.strip().decode().partition(": ")
            if key == "id":
                number = int(value)
            elif key == "event":
                kind = value
            elif key == "data":
                yield number, kind, json.loads(value)

    def take(self, count: int) -> list[tuple[int, str, Any]]:
        coming = iter(self)
        return [next(coming) for _ in range(count)]

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def reading(server: Running, job: str, last: int | None = None) -> Iterator[Reader]:
    reader = Reader(server, job, last)
    try:
        yield reader
    finally:
        reader.close()


def eventually(true: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if true():
            return True
        time.sleep(0.01)
    return False


def state(server: Running, job: Job) -> Any:
    return server.client.get(f"/v1/jobs/{job.id}").json()["state"]


def test_a_training_is_followed_listed_and_remembered(serve: Serve) -> None:
    server = serve()
    job = server.client.post("/v1/models/and/train", json={"trainer": "perceptron"}).json()
    with reading(server, job["id"]) as reader:
        told = list(reader)
    kinds = [kind for _, kind, _ in told]
    assert (kinds[0], kinds[-1]) == ("started", "succeeded")
    assert set(kinds[1:-1]) == {"epoch"}
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][2]["result"]["version"] == 1
    ended = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["progress"], ended["result"]) == ("succeeded", 1.0, told[-1][2]["result"])
    listed = server.client.get("/v1/jobs").json()["data"]
    assert [each["id"] for each in listed] == [job["id"]]


def test_a_reader_who_comes_back_misses_nothing_and_hears_nothing_twice(serve: Serve) -> None:
    server, work = serve(), Work()
    job = submit(server, work)
    heard: list[tuple[int, str, Any]] = []
    for _ in range(8):
        work.tell(5)
        with reading(server, job.id, heard[-1][0] if heard else None) as reader:
            heard += reader.take(3)
    work.finish()
    with reading(server, job.id, heard[-1][0]) as reader:
        heard += list(reader)
    assert [number for number, _, _ in heard] == list(range(1, len(heard) + 1))
    assert heard[-1][1] == "succeeded"
    steps = [data["number"] for _, kind, data in heard if kind == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert heard[-1][2]["result"] == {"steps": len(steps)}


def test_many_readers_of_one_job_hear_the_same(serve: Serve) -> None:
    server, work = serve(), Work()
    job = submit(server, work)

    def all_of_it(_: int) -> list[tuple[int, str, Any]]:
        with reading(server, job.id) as reader:
            return list(reader)

    with ThreadPoolExecutor(20) as pool:
        coming = [pool.submit(all_of_it, n) for n in range(20)]
        work.tell(30)
        assert eventually(lambda: len(server.server.engine.jobs._readers.get(job.id, ())) == 20)
        work.finish()
        heard = [each.result() for each in coming]
    assert all(each == heard[0] for each in heard)
    assert heard[0][-1][1] == "succeeded"
    assert eventually(lambda: not server.server.engine.jobs._readers)


def test_the_last_event_is_never_lost(serve: Serve) -> None:
    server = serve()
    for _ in range(60):
        with reading(server, submit(server).id) as reader:
            assert [kind for _, kind, _ in reader] == ["started", "succeeded"]


def test_readers_who_leave_are_forgotten(serve: Serve) -> None:
    server, work = serve(), Work()
    job = submit(server, work)
    readers = [Reader(server, job.id) for _ in range(30)]
    assert all(reader.take(1)[0][1] == "started" for reader in readers)
    for reader in readers:
        reader.close()
    assert eventually(lambda: not server.server.engine.jobs._readers)
    work.finish()
    assert eventually(lambda: state(server, job) == "succeeded")


def test_after_the_last_event_there_is_nothing_and_before_it_all(serve: Serve) -> None:
    server = serve()
    job = submit(server)
    with reading(server, job.id) as reader:
        assert len(list(reader)) == 2
    with reading(server, job.id, 2) as reader:
        assert list(reader) == []
    with reading(server, job.id, 99) as reader:
        assert list(reader) == []
    with reading(server, job.id, 0) as reader:
        assert len(list(reader)) == 2


@pytest.mark.parametrize("last", [b"x", b"-1", b"1.5", b"\xb2", b"9" * 30, b"1 2"])
def test_a_last_event_that_is_no_number_is_told(serve: Serve, last: bytes) -> None:
    server = serve()
    reply = server.client.get(f"/v1/jobs/{submit(server).id}/events", headers={b"last-event-id": last})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_event_id")


def test_a_job_that_is_none_is_not_found(serve: Serve) -> None:
    server = serve()
    for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        reply = server.client.request(method, f"/v1/jobs/job_0{path}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "job_not_found")


def test_a_job_is_cancelled_before_it_starts_while_it_runs_but_not_after(serve: Serve) -> None:
    server, work = serve(), Work()
    running, waiting = submit(server, work), submit(server)
    assert eventually(lambda: state(server, running) == "running")
    assert server.client.delete(f"/v1/jobs/{waiting.id}").json()["state"] == "cancelled"
    with reading(server, waiting.id) as reader:
        assert [kind for _, kind, _ in reader] == ["cancelled"]
    assert server.client.delete(f"/v1/jobs/{running.id}").status_code == 200
    assert eventually(lambda: state(server, running) == "cancelled")
    for job in (running, waiting):
        reply = server.client.delete(f"/v1/jobs/{job.id}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "job_ended")
    done = submit(server)
    assert eventually(lambda: state(server, done) == "succeeded")
    assert server.client.delete(f"/v1/jobs/{done.id}").status_code == 409


def test_a_cancelled_training_publishes_nothing(serve: Serve) -> None:
    server = serve()
    body = {"trainer": "perceptron", "options": {"epochs": 100_000}}
    job = server.client.post("/v1/models/xor/train", json=body).json()
    with reading(server, job["id"]) as reader:
        reader.take(2)
        server.client.delete(f"/v1/jobs/{job['id']}")
        assert list(reader)[-1][1] == "cancelled"
    assert server.client.get("/v1/models/xor").status_code == 404
    models = server.server.settings.home / "models"
    assert [path for path in models.rglob("*") if path.parent.name == ".incoming"] == []


def test_a_job_that_fails_says_so_and_the_next_one_runs(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    for error in (ValueError("secret"), SystemExit(3), MemoryError()):
        work = Work()
        work.finish(error)
        job = submit(server, work)
        with reading(server, job.id) as reader:
            assert list(reader)[-1][1] == "failed"
        failed = server.client.get(f"/v1/jobs/{job.id}").json()
        assert failed["error"]["code"] == "model_failed"
        assert type(error).__name__ in failed["error"]["message"]
        assert "secret" not in json.dumps(failed)
        assert job.id in caplog.text
    odd = submit(server, lambda job: {"numbers": {1, 2}})
    assert eventually(lambda: state(server, odd) == "failed")
    event = submit(server, lambda job: job.event("odd", {"what": object()}) or {})
    assert eventually(lambda: state(server, event) == "failed")
    assert eventually(lambda: state(server, submit(server)) in ("running", "succeeded", "queued"))
    last = submit(server)
    assert eventually(lambda: state(server, last) == "succeeded")


def test_figures_that_are_no_numbers_are_null(serve: Serve) -> None:
    server = serve()

    def work(job: JobContext) -> Mapping[str, Any]:
        job.event("epoch", {"loss": float("nan")})
        return {"loss": float("inf")}

    job = submit(server, work)
    with reading(server, job.id) as reader:
        told = list(reader)
    assert told[1][2] == {"loss": None}
    assert told[2][2]["result"] == {"loss": None}
    assert server.client.get(f"/v1/jobs/{job.id}").json()["result"] == {"loss": None}
    assert server.client.get("/v1/jobs").status_code == 200


def test_the_events_of_a_long_training_are_bounded(serve: Serve) -> None:
    server = serve()
    body = {"trainer": "perceptron", "options": {"epochs": 20_000}}
    job = server.client.post("/v1/models/xor/train", json=body).json()
    with reading(server, job["id"]) as reader:
        told = list(reader)
    assert told[-1][1] == "succeeded"
    assert 100 < len(told) <= 1002


def test_a_list_has_a_length_and_the_newest_first(serve: Serve) -> None:
    server = serve()
    jobs = [submit(server).id for _ in range(5)]
    listed = server.client.get("/v1/jobs", params={"limit": 3}).json()["data"]
    assert [job["id"] for job in listed] == jobs[:1:-1]
    for limit in (0, 1001, "x"):
        assert server.client.get("/v1/jobs", params={"limit": limit}).status_code in (400, 422)
