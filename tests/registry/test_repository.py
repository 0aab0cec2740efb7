"""The repository on disk, without a server."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hansang.core.errors import BadRequest, HansangError, LoadFailed, NotFound
from hansang.registry.repository import INCOMING, Manifest, Repository, check_name, safe_filename

FACTS = {"format": "json", "task": "tabular"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def publish(repository: Repository, name: str = "gate", body: bytes = b"{}") -> Manifest:
    with repository.incoming("gate.json") as incoming:
        incoming.write(body)
        incoming.finish()
        return repository.publish(repository.place(incoming, name), **FACTS)


def test_a_version_is_what_was_written_with_its_hash_and_size(repository: Repository) -> None:
    manifest = publish(repository, body=b"some bytes")
    assert repository.get("gate") == manifest
    assert repository.path(manifest).read_bytes() == b"some bytes"
    assert (manifest.sha256, manifest.size) == (hashlib.sha256(b"some bytes").hexdigest(), 10)
    assert list((repository.root / INCOMING).iterdir()) == []


def test_before_it_is_published_nobody_sees_it_and_a_discarded_one_never_was(repository: Repository) -> None:
    with repository.incoming("gate.json") as incoming:
        incoming.finish()
        placed = repository.place(incoming, "gate")
        assert repository.names() == []
        assert repository.versions("gate") == []
        with pytest.raises(NotFound, match="no gate"):
            repository.get("gate")
        repository.discard(placed)
    assert not (repository.root / "gate").exists()


def test_what_is_left_half_is_removed(repository: Repository) -> None:
    with pytest.raises(ZeroDivisionError), repository.incoming("gate.json") as incoming:
        incoming.write(b"x" * (1 // 0))
    assert list((repository.root / INCOMING).iterdir()) == []


def test_many_at_once_take_numbers_of_their_own(repository: Repository) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: publish(repository, body=str(n).encode()), range(40)))
    assert sorted(manifest.version for manifest in found) == list(range(1, 41))
    for manifest in found:
        assert hashlib.sha256(repository.path(manifest).read_bytes()).hexdigest() == manifest.sha256


def test_discarding_while_others_publish_harms_nobody(repository: Repository) -> None:
    def one(number: int) -> None:
        with repository.incoming("gate.json") as incoming:
            incoming.finish()
            placed = repository.place(incoming, "gate")
            if number % 2:
                repository.discard(placed)
            else:
                repository.publish(placed, **FACTS)
                repository.delete("gate", placed.version)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
    assert repository.versions("gate") == []


def test_the_newest_is_current_unless_another_is_pinned(repository: Repository) -> None:
    assert repository.current("gate") is None
    for _ in range(3):
        publish(repository)
    assert repository.current("gate") == 3
    repository.set_current("gate", 1)
    assert repository.current("gate") == 1
    assert repository.get("gate").version == 1
    with pytest.raises(NotFound, match="no gate@9"):
        repository.set_current("gate", 9)
    repository.delete("gate", 1)
    assert repository.current("gate") == 3
    repository.set_current("gate", 2)
    (repository.root / "gate" / "current").write_text("nonsense")
    assert repository.current("gate") == 3
    repository.set_current("gate", None)
    repository.set_current("gate", None)


def test_a_deleted_model_is_gone(repository: Repository) -> None:
    publish(repository)
    publish(repository, "other")
    repository.delete("gate")
    assert repository.names() == ["other"]
    with pytest.raises(NotFound):
        repository.delete("gate")
    with pytest.raises(NotFound):
        repository.delete("../other")


def test_a_damaged_manifest_is_told_by_its_path_and_hides_no_other(repository: Repository) -> None:
    publish(repository)
    publish(repository)
    for text in ("", "[]", "{", '{"name": "gate"}', "null", "\xff"):
        (repository.root / "gate" / "2" / "manifest.json").write_text(text, encoding="latin-1")
        assert [manifest.version for manifest in repository.versions("gate")] == [1]
        with pytest.raises(LoadFailed, match=r"2/manifest\.json"):
            repository.get("gate", 2)


def test_a_manifest_of_a_newer_hansang_is_read_as_far_as_it_is_known(repository: Repository) -> None:
    manifest = publish(repository)
    path = repository.root / "gate" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "invented_later": True}))
    assert repository.get("gate") == manifest


def test_only_what_is_old_and_unfinished_is_cleaned(repository: Repository) -> None:
    repository.clean()
    publish(repository)
    old, young, taken = (repository.root / INCOMING / "old"), (repository.root / INCOMING / "young"), 2
    half = repository.root / "gate" / str(taken)
    for folder in (old, young, half):
        folder.mkdir()
        (folder / "gate.json").touch()
    for folder in (old, half, repository.root / "gate" / "1"):
        os.utime(folder, (0, time.time() - 2 * 86400))
    repository.clean()
    assert not old.exists()
    assert not half.exists()
    assert young.exists()
    assert repository.get("gate").version == 1


def test_a_workshop_is_empty_and_gone_afterwards(repository: Repository) -> None:
    with repository.workshop() as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert not folder.exists()
    with pytest.raises(HansangError, match="could not be written"), repository.workshop() as folder:
        (folder / "no" / "such" / "folder").touch()


@pytest.mark.parametrize("name", ["gate", "A-1_b.c", "1", "x" * 128])
def test_plain_names_are_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".incoming", "a/b", "a\\b", "a b", "a@1", "한상", "a\0", "a\n", "x" * 129]
)
def test_other_names_are_not(name: str) -> None:
    with pytest.raises(BadRequest, match="cannot be a model's name"):
        check_name(name)


@pytest.mark.parametrize("filename", ["gate.json", " gate.json ", "관문.json", "a b (1).onnx", "x" * 195 + ".json"])
def test_plain_file_names_are_taken(filename: str) -> None:
    assert safe_filename(filename) == filename.strip()


@pytest.mark.parametrize(
    "filename", ["", " ", ".", "..", ".x", "a/b", "a\\b", "a\0", "a\tb", "manifest.json", "x" * 201, "\ud800"]
)
def test_other_file_names_are_not(filename: str) -> None:
    with pytest.raises(BadRequest, match="cannot be an artifact's file name"):
        safe_filename(filename)
