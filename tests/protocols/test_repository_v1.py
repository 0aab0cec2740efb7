"""The repository over HTTP: uploads in every way, versions, loading, rolling back, deleting, and what is refused."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import KEY, Running, running

Serve = Callable[..., Running]

AND = {"weights": [0.5, 0.5], "bias": -0.75}
OR = {"weights": [1, 1], "bias": -0.5}
NEVER = {"weights": [0, 0], "bias": -1}


def gate(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def put(server: Running, name: str, body: Any, filename: str = "gate.json", **options: Any) -> Any:
    return server.client.put(f"/v1/models/{name}", params={"filename": filename}, content=body, **options)


def publish(server: Running, name: str, record: dict[str, Any]) -> Any:
    reply = put(server, name, gate(record))
    assert reply.status_code == 201, reply.text
    return reply.json()


def error(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def home(server: Running) -> Path:
    return server.server.settings.home / "models"


def left_behind(server: Running) -> list[Path]:
    """All files and folders of the repository but those of published versions."""
    folder = home(server)
    if not folder.is_dir():
        return []
    published = {manifest.parent for manifest in folder.glob("*/*/manifest.json")}
    files = [path for path in folder.rglob("*") if path.is_file() or path.parent.name == ".incoming"]
    return [path for path in files if path.parent not in published and path.name != "current"]


def eventually(true: Callable[[], bool]) -> bool:
    for _ in range(500):
        if true():
            return True
        time.sleep(0.01)
    return False


def test_a_raw_upload_answers_at_once_and_its_manifest_tells_all(serve: Serve) -> None:
    server = serve()
    told = publish(server, "both", AND)
    assert server.predict("both", [1, 1], [0, 1]) == {"predictions": [1, 0]}
    manifest = json.loads((home(server) / "both" / "1" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["sha256"] == hashlib.sha256(gate(AND)).hexdigest()
    assert (manifest["name"], manifest["version"], manifest["file"]) == ("both", 1, "gate.json")
    assert (manifest["size"], manifest["task"]) == (len(gate(AND)), "tabular")
    assert manifest["provenance"] == {"source": "upload", "filename": "gate.json"}
    assert manifest["signature"]
    assert manifest["format"]
    assert told["current"]
    assert {key: told[key] for key in ("sha256", "format", "signature", "size")} == {
        key: manifest[key] for key in ("sha256", "format", "signature", "size")
    }
    assert left_behind(server) == []


def test_a_form_with_one_file_is_an_upload_too(serve: Serve) -> None:
    server = serve()
    reply = server.client.put("/v1/models/form", files={"file": ("or.json", gate(OR))})
    assert (reply.status_code, reply.json()["file"]) == (201, "or.json")
    assert server.predict("form", [0, 1]) == {"predictions": [1]}
    two = {"one": ("or.json", gate(OR)), "two": ("and.json", gate(AND))}
    assert server.client.put("/v1/models/form", files=two).status_code == 400
    assert server.client.put("/v1/models/form", data={"file": "text"}, files={}).status_code == 400
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert server.client.put("/v1/models/form", content=b"--b\r\nnonsense", headers=broken).status_code == 400
    assert len(server.client.get("/v1/models/form/versions").json()["data"]) == 1
    assert left_behind(server) == []


def test_an_upload_in_chunks_without_a_length_is_taken(serve: Serve) -> None:
    server = serve()
    body = gate(AND)
    assert put(server, "chunks", (body[i : i + 7] for i in range(0, len(body), 7))).status_code == 201
    assert server.predict("chunks", [1, 1]) == {"predictions": [1]}


def test_without_a_file_name_the_format_is_unknown(serve: Serve) -> None:
    reply = serve().client.put("/v1/models/m", content=gate(AND))
    assert error(reply) == (400, "missing_required_parameter")
    assert "?filename=" in reply.json()["error"]["hint"]


@pytest.mark.parametrize(
    "filename",
    ["../gate.json", "/etc/gate.json", "..", ".", "", "a/../b.json", "..\\gate.json", "C:\\gate.json", ".hidden.json",
     "gate\0.json", "gate\n.json", "gate\u202enosj.json", "x" * 300 + ".json", "가" * 100 + ".json", "manifest.json",
     "current", "~/gate.json/"],
)  # fmt: skip
def test_a_file_name_that_leads_elsewhere_is_refused_before_anything_is_kept(serve: Serve, filename: str) -> None:
    server = serve()
    assert error(put(server, "m", gate(AND), filename)) == (400, "invalid_filename")
    form = server.client.put("/v1/models/m", params={"filename": filename}, files={"file": ("gate.json", gate(AND))})
    assert form.status_code == 400 or filename == ""
    assert [
        path for path in server.server.settings.home.parent.parent.rglob("gate*.json") if "/1/" not in str(path)
    ] == []
    assert left_behind(server) == []


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fevil", "%2e%2e", "%2e%2e%2fevil", ".incoming", "a%00b", "a%5cb", "x" * 129, "%EA%B0%80", "-a", "a@1"],
)
def test_a_name_that_leads_elsewhere_is_refused(serve: Serve, name: str) -> None:
    server = serve()
    reply = put(server, name, gate(AND))
    assert reply.status_code in (400, 404, 405)
    assert "hint" in reply.json()["error"]
    assert list(home(server).rglob("*")) == []


def test_file_names_may_be_korean(serve: Serve) -> None:
    server = serve()
    assert put(server, "gate", gate(AND), "관문 모델.json").json()["file"] == "관문 모델.json"
    assert server.predict("gate", [1, 1]) == {"predictions": [1]}
    with running(home=server.server.settings.home) as again:
        assert again.predict("gate", [1, 1]) == {"predictions": [1]}


@pytest.mark.parametrize("filename", ["model.py", "model.PY", "model.ipynb", " model.py "])
def test_code_is_never_taken(serve: Serve, filename: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')\ndef model(a: float) -> float:\n    return a\n".encode()
    server = serve()
    assert error(put(server, "m", code, filename)) == (400, "code_refused")
    assert error(server.client.put("/v1/models/m", files={"file": (filename, code)})) == (400, "code_refused")
    assert not canary.exists()
    assert left_behind(server) == []
    assert list(home(server).rglob("*")) == []


@pytest.mark.parametrize(
    "filename", ["m.json", "m.onnx", "m.skops", "m.safetensors", "m.pkl", "m.pt", "m.pt2", "m.joblib"]
)
def test_what_is_no_model_is_refused_by_name_and_leaves_nothing(serve: Serve, filename: str) -> None:
    server = serve()
    for body in (b"", b"\0" * 100, b"PK\x03\x04" + b"\0" * 60, b"hello", b"\x80\x04."):
        reply = put(server, "m", body, filename)
        told = reply.json()["error"]
        assert reply.status_code == 400, told
        assert filename in told["message"]
        assert str(home(server)) not in reply.text
        assert told["hint"]
    assert left_behind(server) == []
    assert list(home(server).glob("m*")) == []
    assert publish(server, "m", AND)["version"] == 1


def test_a_file_that_nothing_opens_is_refused_with_what_can_be_served(serve: Serve) -> None:
    server = serve()
    reply = put(server, "m", b"text", "notes.txt")
    assert error(reply) == (400, "invalid_artifact")
    assert "notes.txt" in reply.json()["error"]["message"]
    assert "*.onnx" in reply.json()["error"]["hint"]


def test_a_bad_upload_changes_nothing_of_what_is_there(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    assert put(server, "gate", b'{"weights": [1,', "gate.json").status_code == 400
    assert put(server, "gate", b'{"weights": "no", "bias": 1}', "gate.json").status_code == 400
    assert server.predict("gate", [1, 1]) == {"predictions": [1]}
    assert [version["version"] for version in server.client.get("/v1/models/gate/versions").json()["data"]] == [1]
    assert publish(server, "gate", OR)["version"] == 2


def test_uploads_of_one_name_at_once_all_become_versions(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(8) as pool:
        versions = sorted(pool.map(lambda n: publish(server, "gate", {"weights": [n], "bias": 0})["version"], range(8)))
    assert versions == list(range(1, 9))
    assert server.client.get("/v1/models/gate").json()["version"] == "8"
    listed = server.client.get("/v1/models/gate/versions").json()["data"]
    assert [version["version"] for version in listed] == list(range(8, 0, -1))
    assert [version["current"] for version in listed] == [True] + [False] * 7


def test_a_good_and_bad_uploads_at_once_do_not_harm_each_other(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(8) as pool:
        bodies = [gate(AND) if n % 2 else b"{" for n in range(24)]
        statuses = list(pool.map(lambda body: put(server, "gate", body).status_code, bodies))
    assert sorted(statuses) == [201] * 12 + [400] * 12
    assert len(server.client.get("/v1/models/gate/versions").json()["data"]) == 12
    assert left_behind(server) == []


def test_a_caller_who_leaves_in_the_middle_leaves_nothing(serve: Serve) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        head = "PUT /v1/models/gone?filename=m.onnx HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
        caller.sendall(head.encode() + b"x" * 3_000_000)
        assert eventually(lambda: any(path.is_file() for path in home(server).rglob("m.onnx")))
    assert eventually(lambda: left_behind(server) == [])
    assert server.client.get("/v1/models/gone").status_code == 404


def test_a_caller_who_leaves_in_the_middle_of_a_form_leaves_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        head = (
            "PUT /v1/models/gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
        )
        caller.sendall(head.encode() + b"x" * 3_000_000)
    assert eventually(lambda: '"/v1/models/{model}",status="499"' in server.client.get("/metrics").text)
    assert left_behind(server) == []
    assert "Traceback" not in caplog.text


def test_an_upload_has_its_own_limit_and_other_bodies_keep_theirs(serve: Serve) -> None:
    server = serve(upload_limit=4000, body_limit=2000)
    pad = b" " * 2500
    assert put(server, "gate", gate(AND) + pad).status_code == 201
    assert error(put(server, "gate", gate(AND) + pad * 2)) == (413, "body_too_large")
    chunks = (pad for _ in range(3))
    assert error(put(server, "gate", chunks)) == (413, "body_too_large")
    large = server.client.post("/v1/models/gate/rollback", content=pad, headers={"content-type": "application/json"})
    assert error(large) == (413, "body_too_large")
    assert server.client.post("/v1/models/gate:predict", content=pad).status_code == 413
    assert left_behind(server) == []


def test_with_a_key_nobody_else_uploads_or_deletes(serve: Serve) -> None:
    server = serve(key=KEY)
    publish(server, "gate", AND)
    server.client.headers.pop("authorization")
    assert put(server, "gate", gate(OR)).status_code == 401
    for method, path in (("DELETE", ""), ("POST", "/unload"), ("POST", "/load"), ("GET", "/versions")):
        assert server.client.request(method, f"/v1/models/gate{path}").status_code == 401


def test_versions_answer_beside_each_other_and_a_rollback_outlives_a_restart(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    publish(server, "gate", OR)
    assert server.predict("gate@2", [0, 1]) == {"predictions": [1]}
    assert server.predict("gate@latest", [0, 1]) == {"predictions": [1]}
    beside = server.client.post("/v1/models/gate@1/load").json()
    assert (beside["version"], beside["state"]) == ("1", "ready")
    assert server.predict("gate@1", [0, 1]) == {"predictions": [0]}
    assert server.predict("gate", [0, 1]) == {"predictions": [1]}
    rolled = server.client.post("/v1/models/gate/rollback").json()
    assert rolled["version"] == "1"
    assert server.predict("gate", [0, 1]) == {"predictions": [0]}
    with running(home=server.server.settings.home) as again:
        assert again.predict("gate", [0, 1]) == {"predictions": [0]}
        assert again.client.post("/v1/models/gate/rollback", json={"version": 2}).json()["version"] == "2"
        assert again.predict("gate", [0, 1]) == {"predictions": [1]}
        assert error(again.client.post("/v1/models/gate/rollback", json={"version": 9})) == (404, "version_not_found")
        again.client.post("/v1/models/gate/rollback", json={"version": 1})
        assert error(again.client.post("/v1/models/gate/rollback")) == (400, "no_older_version")
        assert publish(again, "gate", NEVER)["current"]
        assert again.predict("gate", [1, 1]) == {"predictions": [0]}


@pytest.mark.parametrize("version", ["²", "9" * 5000, "x", "0", "-1", "1.0", "%20"])
def test_a_version_that_is_none_is_not_found(serve: Serve, version: str) -> None:
    server = serve()
    publish(server, "gate", AND)
    for method, path in (("POST", "/load"), ("POST", "/unload"), ("DELETE", "")):
        assert server.client.request(method, f"/v1/models/gate@{version}{path}").status_code == 404


def test_a_loaded_version_is_not_deleted_and_an_unloaded_one_is(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    publish(server, "gate", OR)
    assert error(server.client.delete("/v1/models/gate@2")) == (409, "version_loaded")
    server.client.post("/v1/models/gate@1/load")
    assert error(server.client.delete("/v1/models/gate@1")) == (409, "version_loaded")
    assert server.client.post("/v1/models/gate@1/unload").json()["state"] == "unloaded"
    assert server.client.delete("/v1/models/gate@1").json()["deleted"]
    assert server.predict("gate@1", [0, 1])["error"]["code"] == "model_not_found"
    assert [version["version"] for version in server.client.get("/v1/models/gate/versions").json()["data"]] == [2]
    assert left_behind(server) == []


def test_the_current_version_goes_last_and_takes_the_model_with_it(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    publish(server, "gate", OR)
    server.client.post("/v1/models/gate/unload")
    assert error(server.client.delete("/v1/models/gate@2")) == (409, "version_current")
    assert server.client.delete("/v1/models/gate@1").status_code == 200
    assert server.client.delete("/v1/models/gate@2").status_code == 200
    assert server.client.get("/v1/models/gate").status_code == 404
    assert publish(server, "gate", AND)["version"] == 1


def test_a_deleted_model_is_gone_with_all_its_versions(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    publish(server, "gate", OR)
    server.client.post("/v1/models/gate@1/load")
    assert server.client.delete("/v1/models/gate").json() == {"id": "gate", "object": "model", "deleted": True}
    assert list(home(server).glob("gate*")) == []
    assert left_behind(server) == []
    for name in ("gate", "gate@1", "gate@2"):
        assert server.predict(name, [1, 1])["error"]["code"] == "model_not_found"
    assert error(server.client.delete("/v1/models/gate")) == (404, "version_not_found")


def test_a_model_of_the_command_line_is_not_the_callers_to_change(serve: Serve, and_gate: str) -> None:
    with running() as before:
        publish(before, "and", OR)
    server = serve(and_gate)
    assert server.predict("and", [0, 1]) == {"predictions": [0]}
    assert error(put(server, "and", gate(OR))) == (409, "model_configured")
    assert error(server.client.delete("/v1/models/and")) == (409, "model_configured")
    assert error(server.client.post("/v1/models/and/rollback", json={"version": 1})) == (409, "model_configured")
    assert server.client.post("/v1/models/and/load").status_code == 200
    assert server.predict("and", [0, 1]) == {"predictions": [0]}
    listed = server.client.get("/v1/models/and/versions").json()["data"]
    assert [(version["version"], version["state"]) for version in listed] == [(1, "ready")]


def test_an_unloaded_model_is_loaded_again_and_says_how_until_then(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    assert server.client.post("/v1/models/gate/unload").json()["state"] == "unloaded"
    told = server.predict("gate", [1, 1])["error"]
    assert "/v1/models/gate/load" in told["hint"]
    assert server.client.post("/v1/models/gate/load").json()["state"] == "ready"
    assert server.predict("gate", [1, 1]) == {"predictions": [1]}


def test_a_damaged_version_does_not_stop_the_start_and_says_why(serve: Serve) -> None:
    with running() as before:
        for name in ("good", "torn", "empty", "lost", "blank"):
            publish(before, name, AND)
        folder = home(before)
    (folder / "torn" / "1" / "gate.json").write_bytes(b'{"weights": [0.5')
    (folder / "empty" / "1" / "gate.json").write_bytes(b"")
    (folder / "lost" / "1" / "gate.json").unlink()
    (folder / "blank" / "1" / "manifest.json").write_bytes(b"")
    server = serve()
    assert server.predict("good", [1, 1]) == {"predictions": [1]}
    ready = server.client.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["failed"]) == {"torn", "empty", "lost"}
    assert str(folder) not in ready.text
    for name in ("torn", "empty", "lost"):
        about = server.client.get(f"/v1/models/{name}").json()
        assert about["state"] == "failed"
        assert "gate.json" in about["last_error"]
        refused = server.client.post(f"/v1/models/{name}:predict", json={"instances": [[1, 1]]})
        assert refused.status_code == 503
        assert "gate.json" in refused.text
        assert str(folder) not in refused.text
    (folder / "torn" / "1" / "gate.json").write_bytes(gate(AND))
    assert server.client.post("/v1/models/torn/load").json()["state"] == "ready"
    assert server.predict("torn", [1, 1]) == {"predictions": [1]}
    assert publish(server, "empty", AND)["version"] == 2
    assert set(server.client.get("/readyz").json()["failed"]) == {"lost"}
    assert server.client.delete("/v1/models/lost").status_code == 200
    assert server.client.get("/readyz").json()["failed"] == {}


def test_versions_change_under_load_and_nobody_notices(serve: Serve) -> None:
    server = serve()
    publish(server, "gate", AND)
    wrong: list[Any] = []
    stop = threading.Event()
    answered = [0] * 4

    def ask(caller: int) -> None:
        with running_client(server) as client:
            while not stop.is_set() or answered[caller] < 300:
                reply = client.post("/v1/models/gate:predict", json={"instances": [[1, 1]]})
                answered[caller] += 1
                if reply.status_code != 200 or reply.json() != {"predictions": [1]}:
                    wrong.append(reply.text)

    callers = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    for number in range(5):
        publish(server, "gate", {"weights": [0.5, 0.5], "bias": -0.7 + number / 100})
    server.client.post("/v1/models/gate/rollback", json={"version": 2})
    stop.set()
    for caller in callers:
        caller.join()
    assert sum(answered) >= 1200
    assert wrong == []


def running_client(server: Running) -> Any:
    return type(server.client)(base_url=server.url, timeout=30, trust_env=False)


def test_an_idle_model_rests_and_many_callers_wake_it_once(serve: Serve) -> None:
    server = serve(idle_timeout=0.2)
    publish(server, "gate", AND)
    entry = server.server.registry.find("gate")
    loads: list[None] = []
    load = entry.model.load
    entry.model.load = lambda context: (loads.append(None), load(context))[1]  # type: ignore[func-returns-value,method-assign]
    assert eventually(lambda: server.client.get("/v1/models/gate").json()["state"] == "idle")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.predict("gate", [1, 1]), range(16)))
    assert answers == [{"predictions": [1]}] * 16
    assert len(loads) == 1


def test_resting_and_waking_at_every_moment_fails_nobody(serve: Serve) -> None:
    server = serve(idle_timeout=0.001)
    publish(server, "gate", AND)
    for _ in range(300):
        assert server.predict("gate", [1, 1]) == {"predictions": [1]}


def test_loading_and_unloading_again_and_again_keeps_memory_flat(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    publish(server, "wide", {"weights": [0.5] * 2000, "bias": -1})

    def turn() -> int:
        assert server.client.post("/v1/models/wide/unload").json() == {
            "id": "wide", "object": "model", "version": "1", "state": "unloaded", "memory": 0,
        }  # fmt: skip
        assert server.client.post("/v1/models/wide/load").json()["state"] == "ready"
        return psutil.Process().memory_info().rss

    for _ in range(3):
        before = turn()
    for _ in range(20):
        after = turn()
    assert after < before * 1.05
