"""The catalog: what is on disk and what is loaded, together, on an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from hansang.core.errors import BadRequest, Conflict, HansangError, LoadFailed, NotFound
from hansang.core.model import Call, LoadContext, Model
from hansang.core.source import Source
from hansang.registry.catalog import Catalog, split
from hansang.registry.registry import ModelSpec, Registry
from hansang.registry.repository import Manifest, Repository
from house import LISTS


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def whole(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **fixtures), 30))

    return whole


class Told(Model):
    """Answers what its file says. `slow` waits for the test; `bad` does not load."""

    task = LISTS
    placement = "inline"
    alive = 0
    slow = threading.Event()
    began = threading.Event()

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, context: LoadContext) -> None:
        self.says = json.loads(self.path.read_bytes())
        if self.says == "slow":
            Told.began.set()
            assert Told.slow.wait(20)
        if self.says == "bad":
            raise LoadFailed(f"{self.path} is bad.", hint=f"Mend {self.path}.")
        Told.alive += 1

    def predict(self, calls: Sequence[Call]) -> list[Any]:
        return [[self.says] for _ in calls]

    def unload(self) -> None:
        Told.alive -= 1


def open_source(source: Source) -> Model:
    path = source.file()
    if path.suffix != ".json":
        raise LoadFailed(f"No runtime opens {path}.")
    return Told(path)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    Told.alive = 0
    Told.slow, Told.began = threading.Event(), threading.Event()
    return Repository(tmp_path / "models")


def catalog_of(repository: Repository) -> Catalog:
    return Catalog(repository, Registry(open_source))


async def publish(catalog: Catalog, says: str, name: str = "told", filename: str = "told.json") -> Manifest:
    with catalog.repository.incoming(filename) as incoming:
        incoming.write(json.dumps(says).encode())
        incoming.finish()
        return await catalog.publish(incoming, name)


def answers(catalog: Catalog, name: str = "told") -> Any:
    model = catalog.registry.ready(name).model
    assert isinstance(model, Told)
    return model.says


async def settled(catalog: Catalog) -> None:
    while catalog.registry._retiring:
        await asyncio.wait(catalog.registry._retiring)


@on_a_loop
async def test_the_newest_version_answers_though_an_older_one_is_ready_later(repository: Repository) -> None:
    catalog = catalog_of(repository)
    first = asyncio.create_task(publish(catalog, "slow"))
    assert await asyncio.to_thread(Told.began.wait, 20)
    catalog.registry._loading = asyncio.Lock()  # the second need not wait for the first
    second = await publish(catalog, "second")
    Told.slow.set()
    assert ((await first).version, second.version) == (1, 2)
    await settled(catalog)
    assert (answers(catalog), repository.current("told"), Told.alive) == ("second", 2, 1)
    await catalog.registry.close()
    assert Told.alive == 0


@on_a_loop
async def test_what_does_not_load_is_as_if_it_had_never_come(repository: Repository) -> None:
    catalog = catalog_of(repository)
    for says, filename in (("bad", "told.json"), ("odd", "told.odd")):
        with pytest.raises(BadRequest, match=rf"{filename.replace('.', chr(92) + '.')}") as told:
            await publish(catalog, says, filename=filename)
        assert str(repository.root) not in f"{told.value.message} {told.value.hint}"
    assert not catalog.registry.knows("told")
    assert not (repository.root / "told").exists()


@on_a_loop
async def test_what_cannot_be_published_after_all_is_unloaded(repository: Repository) -> None:
    catalog = catalog_of(repository)
    with repository.incoming("told.json") as incoming:
        incoming.write(b'"good"')
        incoming.finish()
        with pytest.raises(TypeError):
            await catalog.publish(incoming, "told", metrics={"not": {"JSON"}})
    await settled(catalog)
    assert (Told.alive, repository.names(), catalog.registry.knows("told")) == (0, [], False)


@on_a_loop
async def test_the_old_version_is_unloaded_once_the_new_one_answers(repository: Repository) -> None:
    catalog = catalog_of(repository)
    for says in ("one", "two", "three"):
        await publish(catalog, says)
        assert answers(catalog) == says
    await settled(catalog)
    assert Told.alive == 1
    await catalog.load("told@1")
    assert (answers(catalog, "told@1"), answers(catalog), Told.alive) == ("one", "three", 2)
    await catalog.roll_back("told", 1)
    await settled(catalog)
    assert (answers(catalog), Told.alive) == ("one", 1)
    await catalog.delete("told")
    assert (Told.alive, catalog.registry.knows("told")) == (0, False)


@on_a_loop
async def test_a_start_puts_current_versions_on_the_table_and_tells_of_the_broken(repository: Repository) -> None:
    before = catalog_of(repository)
    await publish(before, "one")
    await publish(before, "two")
    await before.roll_back("told", 1)
    await publish(before, "fine", "broken")
    repository.path(repository.get("broken")).write_bytes(b'"bad"')
    await publish(before, "fine", "lost")
    repository.path(repository.get("lost")).unlink()
    catalog = catalog_of(repository)
    await catalog.start()
    assert answers(catalog) == "one"
    for name in ("broken", "lost"):
        entry = catalog.registry.find(name)
        assert entry.state == "failed"
        assert entry.error is not None
        assert "told.json" in entry.error.message
        assert str(repository.root) not in entry.error.message
        with pytest.raises(HansangError, match=r"told\.json"):
            await catalog.load(name)
        await catalog.registry.unload(name)
        assert entry.state == "failed"
    repository.path(repository.get("broken")).write_bytes(b'"mended"')
    await catalog.load("broken@1")
    assert answers(catalog, "broken") == "mended"


@on_a_loop
async def test_a_model_of_the_command_line_is_never_replaced(repository: Repository, tmp_path: Path) -> None:
    await publish(catalog_of(repository), "stored")
    file = tmp_path / "told.json"
    file.write_bytes(b'"ours"')
    catalog = catalog_of(repository)
    catalog.registry.add(ModelSpec("told", Source(str(file), path=file)))
    await catalog.registry.load("told")
    await catalog.start()
    await catalog.load("told")
    assert answers(catalog) == "ours"
    for refused in (publish(catalog, "theirs"), catalog.delete("told"), catalog.roll_back("told", 1)):
        with pytest.raises(Conflict, match="command line"):
            await refused


@on_a_loop
async def test_loads_unloads_and_rests_at_once_leave_one_or_none(repository: Repository) -> None:
    catalog = catalog_of(repository)
    await publish(catalog, "one")
    registry = catalog.registry
    for _ in range(30):
        await asyncio.gather(
            *(catalog.load("told") for _ in range(3)),
            registry.unload("told"),
            registry.rest(-1),
            registry.unload("told"),
        )
        await catalog.load("told")
        assert (answers(catalog), Told.alive) == ("one", 1)
        await registry.rest(-1)
        assert (registry.find("told").state, Told.alive) == ("idle", 0)
        woken = await asyncio.gather(*(registry.wake(registry.find("told")) for _ in range(5)))
        assert (len(set(map(id, woken))), Told.alive) == (1, 1)


@on_a_loop
async def test_versions_beside_rest_too(repository: Repository) -> None:
    catalog = catalog_of(repository)
    await publish(catalog, "one")
    await publish(catalog, "two")
    await catalog.load("told@1")
    await settled(catalog)
    await catalog.registry.rest(-1)
    assert Told.alive == 0
    await catalog.delete("told@1")
    assert [manifest.version for manifest in repository.versions("told")] == [2]


@pytest.mark.parametrize(
    ("text", "parts"), [("a", ("a", None)), ("a@3", ("a", 3)), ("a@latest", ("a", None)), ("a@03", ("a", 3))]
)
def test_names_have_versions(text: str, parts: tuple[str, int | None]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize("text", ["a@", "a@x", "a@²", "a@-1", "a@1@2", "a@" + "9" * 5000])
def test_other_versions_are_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        split(text)
