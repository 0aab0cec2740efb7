"""Jobs without HTTP: the queue, the end, restarts, other servers of one home, a disk that is full."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hansang.core.errors import Conflict, NotFound, QueueFull
from hansang.jobs.jobs import Job, JobContext, Jobs
from hansang.store.database import Database
from hansang.store.presence import Presence


class House:
    """A home, and the servers in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._open: list[tuple[Jobs, Presence, Database]] = []

    def jobs(self, **options: Any) -> Jobs:
        presence, database = Presence(self.home / "servers"), Database(self.home / "control.db")
        jobs = Jobs(database, presence, **options)
        self._open.append((jobs, presence, database))
        return jobs

    def close(self) -> None:
        for jobs, presence, database in self._open:
            jobs.close()
            presence.end()
            database.close()
        self._open = []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


class Held:
    """Work that goes on until it is let go, or cancelled."""

    def __init__(self) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()

    def __call__(self, job: JobContext) -> Mapping[str, Any]:
        self.began.set()
        while not self.let_go.wait(0.005):
            job.check()
        return {"held": True}


def nothing(job: JobContext) -> Mapping[str, Any]:
    return {}


def ended(jobs: Jobs, job: Job) -> Job:
    for _ in range(2000):
        if jobs.get(job.id).ended and job.id not in jobs._live:
            return jobs.get(job.id)
        time.sleep(0.005)
    raise AssertionError(f"{job.id} is {jobs.get(job.id).state}")


def kinds(jobs: Jobs, job: Job) -> list[str]:
    async def read() -> list[str]:
        return [event.kind async for event in jobs.events(job.id)]

    return asyncio.run(asyncio.wait_for(read(), 20))


def test_jobs_run_one_after_another_in_the_order_they_came(house: House) -> None:
    jobs, order = house.jobs(), list[int]()

    def work(number: int) -> Callable[[JobContext], Mapping[str, Any]]:
        return lambda job: {"after": len(order), "_": order.append(number)}

    all_of_them = [jobs.submit("test", "m", {}, work(number)) for number in range(10)]
    assert [ended(jobs, job).state for job in all_of_them] == ["succeeded"] * 10
    assert order == list(range(10))


def test_a_full_queue_says_so_and_a_cancel_makes_room(house: House) -> None:
    jobs, held = house.jobs(queue=2), Held()
    jobs.submit("test", "m", {}, held)
    assert held.began.wait(10)
    waiting = [jobs.submit("test", "m", {}, nothing) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 jobs wait") as told:
        jobs.submit("test", "m", {}, nothing)
    assert told.value.headers == {"Retry-After": "5"}
    jobs.cancel(waiting[0].id)
    last = jobs.submit("test", "m", {}, nothing)
    held.let_go.set()
    assert ended(jobs, last).state == "succeeded"
    assert len(jobs.recent()) == 4


def test_a_stop_interrupts_what_runs_and_what_waits(house: House) -> None:
    jobs, held = house.jobs(), Held()
    running, waiting = jobs.submit("test", "m", {"a": 1}, held), jobs.submit("test", "m", {}, nothing)
    assert held.began.wait(10)
    house.close()
    again = house.jobs()
    for job in (running, waiting):
        found = again.get(job.id)
        assert found.state == "interrupted"
        assert kinds(again, job)[-1] == "interrupted"
        with pytest.raises(Conflict, match="interrupted"):
            again.cancel(job.id)
    assert again.get(running.id).params == {"a": 1}


def test_two_servers_of_one_home_leave_each_others_jobs_alone(house: House) -> None:
    ours, held = house.jobs(), Held()
    job = ours.submit("test", "m", {}, held)
    assert held.began.wait(10)
    theirs = house.jobs()
    assert theirs.get(job.id).state == "running"
    assert [each.state for each in theirs.recent()] == ["running"]
    with pytest.raises(Conflict, match="another"):
        theirs.cancel(job.id)
    threading.Timer(0.1, held.let_go.set).start()
    assert kinds(theirs, job) == ["started", "succeeded"]
    assert theirs.get(job.id).result == {"held": True}


def test_ended_jobs_are_forgotten_after_their_time_with_their_events(house: House) -> None:
    jobs = house.jobs(keep=0.05)
    old = ended(jobs, jobs.submit("test", "m", {}, nothing))
    held = Held()
    running = jobs.submit("test", "m", {}, held)
    time.sleep(0.1)
    jobs.submit("test", "m", {}, nothing)
    with pytest.raises(NotFound):
        jobs.get(old.id)
    assert jobs.get(running.id).id == running.id
    assert jobs._events_after(old.id, 0) == []
    held.let_go.set()


def test_a_job_that_ended_is_remembered_after_a_restart(house: House) -> None:
    jobs = house.jobs()

    def work(job: JobContext) -> Mapping[str, Any]:
        job.event("epoch", {"loss": 0.5}, 0.5)
        return {"answer": 42}

    job = ended(jobs, jobs.submit("train", "m", {"seed": 3}, work))
    house.close()
    again = house.jobs()
    found = again.get(job.id)
    assert (found.state, found.progress, found.result, found.params) == ("succeeded", 1.0, {"answer": 42}, {"seed": 3})
    assert kinds(again, job) == ["started", "epoch", "succeeded"]


def test_what_is_told_before_a_silence_is_not_kept_back(house: House) -> None:
    jobs, held = house.jobs(), Held()

    def work(job: JobContext) -> Mapping[str, Any]:
        for number in range(5):
            job.event("step", {"number": number})
        return held(job)

    job = jobs.submit("test", "m", {}, work)

    async def read() -> int:
        seen = 0
        async for _ in jobs.events(job.id):
            seen += 1
            if seen == 6:
                break
        return seen

    assert asyncio.run(asyncio.wait_for(read(), 20)) == 6
    held.let_go.set()


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: SQLite's writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_fails_a_job_and_not_the_ones_after_it(house: House) -> None:
    jobs, held = house.jobs(), Held()

    def work(job: JobContext) -> Mapping[str, Any]:
        held(job)
        return {"large": "x" * 10_000_000}

    lost = jobs.submit("test", "m", {}, work)
    assert held.began.wait(10)
    with disk_full_at(1_000_000):
        held.let_go.set()
        for _ in range(2000):
            if lost.ended:
                break
            time.sleep(0.005)
    assert lost.ended
    assert jobs.get(lost.id).ended
    with pytest.raises(Conflict):
        jobs.cancel(lost.id)
    assert ended(jobs, jobs.submit("test", "m", {}, nothing)).state == "succeeded"
