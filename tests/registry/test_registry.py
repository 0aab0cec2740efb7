"""Names, states, loading and unloading: what is on the table."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from hansang.core.errors import Conflict, HansangError, LoadFailed, ModelNotFound, Unavailable
from hansang.core.model import LoadContext, Model, Mount
from hansang.core.source import Source
from hansang.registry.registry import ModelSpec, Registry
from hansang.scheduling.batcher import QueueLimits
from house import LISTS, Counting, Lists, call, run, until


def spec(name: str, **options: Any) -> ModelSpec:
    return ModelSpec(name, Source(f"test:{name}", scheme="test", rest=name), **options)


def registry(**models: Model) -> Registry:
    made = Registry(lambda source: Mount(app=None))
    for name, model in models.items():
        made.add(spec(name), model)
    return made


def test_a_second_equal_name_is_an_error_that_shows_how_to_name_it() -> None:
    table = registry(a=Lists())
    with pytest.raises(Conflict) as conflict:
        table.add(spec("a"), Lists())
    assert "a-2=test:a" in str(conflict.value.hint)
    table.add(spec("mounted"))
    with pytest.raises(Conflict):
        table.add(spec("mounted"), Lists())


def test_a_mount_is_kept_apart_from_models() -> None:
    table = registry(a=Lists())
    table.add(spec("site"))
    assert list(table.mounts) == ["site"]
    assert [entry.name for entry in table] == ["a"]


def test_what_the_line_of_configuration_says_overrides_the_model() -> None:
    table = Registry(lambda source: Lists(max_batch_size=4, gather=0.1))
    table.add(spec("a", placement="inline", concurrency=3, gather=0.0))
    (entry,) = table
    model = entry.model
    assert (model.placement, model.max_batch_size, model.concurrency, model.gather) == ("inline", 4, 3, 0.0)


def test_find_knows_the_version_and_near_names() -> None:
    table = registry(iris=Lists(), gates=Lists())
    assert table.find("iris") is table.find("iris@1") is table.find("iris@latest")
    with pytest.raises(ModelNotFound) as missing:
        table.find("irsi")
    assert missing.value.hint == "Did you mean iris?"
    with pytest.raises(ModelNotFound) as far:
        table.find("zzz")
    assert far.value.hint == "Models here: gates, iris."
    for version in ("iris@2", "iris@", "@1", "iris@1@1"):
        with pytest.raises(ModelNotFound):
            table.find(version)
    with pytest.raises(ModelNotFound, match="does not exist"):
        registry().find("x")


@pytest.mark.parametrize("name", ["", "x" * 100_000, "\x00", "../../etc/passwd", "한글", "a/b"])
def test_odd_names_are_just_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        registry(iris=Lists()).find(name)


def test_a_model_is_ready_only_between_load_and_unload() -> None:
    async def main() -> None:
        model = Lists()
        table = registry(a=model)
        with pytest.raises(Unavailable, match="loading"):
            table.ready("a")
        entry = await table.load("a")
        assert table.ready("a") is table.ready("a@1") is entry
        assert await table.load("a") is entry
        assert model.loaded == 1
        await table.unload("a")
        with pytest.raises(Unavailable, match="unloaded"):
            table.ready("a")
        await table.unload("a")
        assert model.unloaded == 1
        await table.load("a")
        assert await table.ready("a").queue.submit(call(1), 1) == [2]  # type: ignore[union-attr]
        await table.unload("a")
        assert (model.loaded, model.unloaded) == (2, 2)

    run(main)


class Broken(Lists):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def load(self, context: LoadContext) -> None:
        if self.error is not None:
            raise self.error

    unload = load  # type: ignore[assignment]


@pytest.mark.parametrize(
    "error", [ValueError("bad bytes"), SystemExit(3), KeyboardInterrupt(), RecursionError(), MemoryError()], ids=repr
)
def test_a_failed_load_is_kept_with_its_reason_and_can_be_tried_again(error: BaseException) -> None:
    async def main() -> None:
        model = Broken(error)
        table = registry(a=model)
        with pytest.raises(LoadFailed, match=type(error).__name__):
            await table.load("a")
        entry = table.find("a")
        assert entry.state == "failed"
        with pytest.raises(Unavailable, match=r"failed.*could not be loaded"):
            table.ready("a")
        model.error = None
        assert await table.load("a") is entry
        assert (entry.state, entry.error) == ("ready", None)
        await table.unload("a")

    run(main)


def test_an_error_of_ours_from_load_is_passed_on_as_it_is() -> None:
    async def main() -> None:
        table = registry(a=Broken(LoadFailed("Not a model.", hint="Look elsewhere.")))
        with pytest.raises(LoadFailed, match="Not a model"):
            await table.load("a")

    run(main)


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), LoadFailed("x")], ids=repr)
def test_a_model_that_fails_to_unload_is_unloaded_for_us(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        model = Broken(error)
        model.error = None
        table = registry(a=model)
        await table.load("a")
        model.error = error
        await table.unload("a")
        assert table.find("a").state == "unloaded"

    run(main)
    assert "could not be unloaded" in caplog.text


def test_what_runs_and_what_waits_is_answered_before_the_model_is_unloaded() -> None:
    async def main() -> None:
        model = Lists(held=True)
        table = registry(a=model)
        queue = (await table.load("a")).queue
        assert queue is not None
        running, waiting = queue.submit(call(1), 1), queue.submit(call(2), 1)
        await until(lambda: model.batches)
        unloading = asyncio.ensure_future(table.unload("a"))
        await asyncio.sleep(0.02)
        assert model.unloaded == 0
        with pytest.raises(Unavailable):
            table.ready("a")
        model.gate.set()
        assert await running == [2]
        assert await waiting == [4]
        await unloading
        assert model.unloaded == 1

    run(main)


def test_a_model_that_never_stops_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        model = Lists(held=True)
        table = registry(a=model)
        queue = (await table.load("a")).queue
        assert queue is not None
        stuck = queue.submit(call(1), 1)
        await until(lambda: model.batches)
        await table.unload("a", grace=0.01)
        assert model.unloaded == 0
        model.gate.set()
        assert await stuck == [2]

    run(main)
    assert "still runs" in caplog.text


def test_load_and_unload_twenty_times_leave_no_thread() -> None:
    def workers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("model-")}

    async def main() -> None:
        table = registry(a=Lists(concurrency=3), b=Counting())
        before = workers()
        for _ in range(20):
            await table.load("a")
            await table.load("b")
            assert table.ready("a").model.task is LISTS
            await table.unload("a")
            await table.unload("b")
        await until(lambda: workers() <= before)

    run(main)


def test_limits_reach_the_queue() -> None:
    async def main() -> None:
        table = Registry(lambda source: Lists(), limits=QueueLimits(calls=7, size=8))
        table.add(spec("a"))
        entry = await table.load("a")
        assert entry.queue is not None
        assert entry.queue.limits == QueueLimits(7, 8)
        await table.unload("a")

    run(main)


def test_entries_have_attachments_of_their_own() -> None:
    table = registry(a=Lists(), b=Lists())
    table.find("a").attachments["x"] = 1
    assert table.find("b").attachments == {}


def test_every_error_of_the_registry_is_ours() -> None:
    for error in (Conflict, LoadFailed, ModelNotFound, Unavailable):
        assert issubclass(error, HansangError)
