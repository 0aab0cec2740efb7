"""Attacks on the repository: torn and flipped files of every format, a full disk, kill -9 at any moment."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conftest import Running
from terminal import Started, started

Serve = Callable[..., Running]

GATE = json.dumps({"weights": [0.5, 0.5], "bias": -0.75}).encode()
FORMATS = ("json", "pickle", "safetensors", "torch", "onnx")


def put(server: Running, name: str, body: Any, filename: str = "gate.json") -> Any:
    return server.client.put(f"/v1/models/{name}", params={"filename": filename}, content=body)


def models(server: Running) -> Path:
    return server.server.settings.home / "models"


def incoming(server: Running) -> list[Path]:
    return list((models(server) / ".incoming").glob("*"))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """A small network in every format that our trainers write, and a classifier in skops: file name and bytes."""
    from sklearn.linear_model import LogisticRegression
    from skops.io import dumps

    from conftest import running

    found: dict[str, tuple[str, bytes]] = {}
    with running(home=tmp_path_factory.mktemp("home")) as server:
        for saved_as in FORMATS:
            body = {"trainer": "mlp", "format": saved_as, "data": "and", "options": {"epochs": 3}}
            job = server.client.post(f"/v1/models/{saved_as}/train", json=body).json()
            assert b"event: succeeded" in server.client.get(f"/v1/jobs/{job['id']}/events").content
            file = next(path for path in (models(server) / saved_as / "1").iterdir() if path.name != "manifest.json")
            found[saved_as] = (file.name, file.read_bytes())
    found["skops"] = ("line.skops", dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1])))
    return found


@pytest.mark.parametrize("saved_as", [*FORMATS, "skops"])
def test_a_torn_file_is_refused_by_name_and_takes_no_version(
    serve: Serve, artifacts: dict[str, tuple[str, bytes]], saved_as: str
) -> None:
    server = serve()
    filename, whole = artifacts[saved_as]
    for size in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        reply = put(server, "torn", whole[:size], filename)
        assert reply.status_code == 400, (size, reply.text)
        told = reply.json()["error"]
        assert filename in told["message"], told
        assert told["hint"]
        assert str(models(server)) not in reply.text
    assert not (models(server) / "torn").exists()
    assert incoming(server) == []
    assert put(server, "torn", whole, filename).json()["version"] == 1


@pytest.mark.parametrize("saved_as", [*FORMATS, "skops"])
def test_a_flipped_bit_is_refused_or_harmless_and_never_a_failure_of_ours(
    serve: Serve, artifacts: dict[str, tuple[str, bytes]], saved_as: str
) -> None:
    server = serve()
    filename, whole = artifacts[saved_as]
    chance = random.Random(7)
    published = 0
    for _ in range(25):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        reply = put(server, "flipped", bytes(flipped), filename)
        assert reply.status_code in (201, 400), reply.text
        if reply.status_code == 201:
            published += 1
            assert reply.json()["version"] == published
        else:
            assert filename in reply.json()["error"]["message"]
    assert incoming(server) == []
    listed = server.client.get("/v1/models/flipped/versions").json().get("data", [])
    assert len(listed) == published


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a write then fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", [False, True])
def test_a_full_disk_is_507_and_leaves_nothing(serve: Serve, form: bool) -> None:
    server = serve()
    large = b" " * 8_000_000
    with disk_full_at(4_000_000):
        if form:
            reply = server.client.put("/v1/models/gate", files={"file": ("gate.json", GATE + large)})
        else:
            reply = put(server, "gate", GATE + large)
    assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")
    assert incoming(server) == []
    assert not (models(server) / "gate").exists()
    assert put(server, "gate", GATE).json()["version"] == 1


def test_a_link_or_a_folder_in_the_place_of_a_version_is_stepped_over(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    put(server, "gate", GATE)
    (models(server) / "gate" / "2").symlink_to(tmp_path)
    (models(server) / "gate" / "3").mkdir()
    (models(server) / "gate" / "²").mkdir()
    assert put(server, "gate", GATE).json()["version"] == 4
    assert [version["version"] for version in server.client.get("/v1/models/gate/versions").json()["data"]] == [4, 1]


def test_callers_cannot_choose_options_or_paths(serve: Serve, tmp_path: Path) -> None:
    """Nothing that an upload says of itself names a class, a path or another format."""
    server = serve()
    secret = tmp_path / "secret.json"
    secret.write_bytes(GATE)
    tries = {"class": "os:system", "options": '{"class": "x.py:X"}', "path": str(secret), "source": str(secret)}
    reply = server.client.put("/v1/models/gate", params={"filename": "gate.json", **tries}, content=GATE)
    assert reply.status_code in (201, 400)
    manifest = models(server) / "gate" / "1" / "manifest.json"
    if manifest.exists():
        assert json.loads(manifest.read_text(encoding="utf-8"))["options"] == {}
    form = server.client.put("/v1/models/other", data=tries, files={"file": ("gate.json", GATE)})
    assert form.status_code in (201, 400)
    link = tmp_path / "link.json"
    link.symlink_to(secret)
    for text in (str(secret), f"file://{secret}", "gates.py:and_gate", "echo:"):
        assert put(server, "third", text.encode(), "gate.json").status_code == 400


def busy(url: str, work: int) -> None:
    """Upload, or train, until the server is gone."""
    train = {"trainer": "perceptron", "options": {"epochs": 3000}}
    with suppress(httpx2.HTTPError), httpx2.Client(base_url=url, timeout=20, trust_env=False) as client:
        while True:
            if work == 0:
                client.put("/v1/models/small?filename=gate.json", content=GATE)
            elif work == 1:
                client.put("/v1/models/large?filename=gate.json", content=GATE + b" " * 2**22)
            else:
                client.post("/v1/models/and/train", json=train)
                client.post("/v1/models/xor/train", json=train)
                time.sleep(0.05)


def all_load(server: Started) -> int:
    """Load every version that is listed, and say how many there are."""
    count = 0
    with server.client() as client:
        assert client.get("/readyz").json()["failed"] == {}
        for model in client.get("/v1/models").json()["data"]:
            for version in client.get(f"/v1/models/{model['id']}/versions").json()["data"]:
                reply = client.post(f"/v1/models/{version['id']}@{version['version']}/load")
                assert reply.json()["state"] == "ready", reply.text
                count += 1
        assert {job["state"] for job in client.get("/v1/jobs?limit=1000").json()["data"]} <= {
            "succeeded",
            "interrupted",
        }
    return count


def test_a_server_killed_at_any_moment_has_no_half_version(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("PYTEST_XDIST_TESTRUNUID", "0")[:8] or "0", 16))
    home = str(tmp_path / "home")
    counts = []
    for last in (False,) * 6 + (True,):
        with started("serve", "--no-demo", "--port", "0", "--home", home, cwd=tmp_path) as server:
            url = server.until_ready()
            counts.append(all_load(server))
            if last:
                break
            callers = [threading.Thread(target=busy, args=(url, work)) for work in range(3)]
            for caller in callers:
                caller.start()
            time.sleep(chance.uniform(0.05, 0.5))
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(30)
            for caller in callers:
                caller.join()
    assert counts == sorted(counts)
    assert counts[-1] > 0
