"""Figures of the store: a large upload, a change of version under load, killing the server at any moment.

    python bench/store.py upload [--size 1024]      MiB; its speed, and the server's memory meanwhile
    python bench/store.py swap [--requests 10000]   requests while five versions take over
    python bench/store.py kill [--times 50]         kill -9 during uploads and trainings, then look at what is there

The upload is a safetensors file of zeros that no model claims: it is streamed to the disk, hashed, synced, checked,
and then refused, so that what is measured is the way to the disk and not the loading of a gigabyte. It is held
against a loop that writes, hashes and syncs the same bytes to the same disk in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

PIECE = 2**20
GATE = json.dumps({"weights": [0.5, 0.5], "bias": -0.75}).encode()


class Server:
    """`hansang serve` in a process, with a home of its own."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-m", "hansang", "serve", "--no-demo", "--port", "0", "--home", str(home)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HANSANG_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert self.process.stdout is not None
        text = ""
        while not (found := re.search(r"http://[\w.]+:\d+", text)):
            line = self.process.stdout.readline().decode()
            if not line:
                raise RuntimeError(f"the server did not start: {text}")
            text += line
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.client = httpx2.Client(base_url=found.group(), timeout=120, trust_env=False)
        while self._status() != 200:
            time.sleep(0.02)

    def _status(self) -> int:
        try:
            return int(self.client.get("/readyz").status_code)
        except httpx2.HTTPError:
            return 0

    def upload(self, name: str, body: Any, filename: str = "gate.json", **options: Any) -> Any:
        return self.client.put(f"/v1/models/{name}", params={"filename": filename}, content=body, **options)

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        self.client.close()
        self.process.send_signal(with_signal)
        self.process.wait(60)


def zeros(size: int) -> Iterator[bytes]:
    """A valid safetensors file of one tensor, piece by piece."""
    count = (size - PIECE) // 4 * 4
    header = json.dumps({"zeros": {"dtype": "F32", "shape": [count // 4], "data_offsets": [0, count]}}).encode()
    yield struct.pack("<Q", len(header)) + header
    piece = bytes(PIECE)
    while count > 0:
        yield piece[:count]
        count -= PIECE


def _write_and_hash(path: Path, size: int) -> float:
    began = time.perf_counter()
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in zeros(size):
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def upload(home: Path, size: int) -> None:
    server = Server(home)
    process = psutil.Process(server.process.pid)
    server.upload("warm", zeros(8 * PIECE), "zeros.safetensors")
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    threading.Thread(target=watch, daemon=True).start()
    bare, ours = [], []
    file = home / "zeros.safetensors"
    with file.open("wb") as made:
        made.writelines(zeros(size))
    for _ in range(3):
        bare.append(_write_and_hash(home / "bare", size))
        began = time.perf_counter()
        command = ["curl", "-s", "-T", str(file), f"{server.client.base_url}/v1/models/big?filename=zeros.safetensors"]
        reply = subprocess.run(command, capture_output=True, check=True).stdout
        ours.append(time.perf_counter() - began)
        assert b"invalid_artifact" in reply, reply
    done.set()
    server.end()
    figures = {
        "MiB": size // PIECE,
        "write_hash_sync_s": round(min(bare), 3),
        "upload_s": round(min(ours), 3),
        "share": round(min(bare) / min(ours), 3),
        "memory_growth_MiB": round((peak - before) / 2**20, 1),
    }
    print(json.dumps(figures))


def swap(home: Path, requests: int, callers: int = 8) -> None:
    server = Server(home)
    server.upload("gate", GATE)
    asked, failed = [0] * callers, [0] * callers
    swapped = threading.Event()

    def ask(caller: int) -> None:
        with httpx2.Client(base_url=server.client.base_url, timeout=30, trust_env=False) as client:
            while asked[caller] < requests // callers or not swapped.is_set():
                reply = client.post("/v1/models/gate:predict", json={"instances": [[1, 1]]})
                asked[caller] += 1
                failed[caller] += reply.json() != {"predictions": [1]}

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for number in range(1, 6):
        while sum(asked) < requests * number // 6:
            time.sleep(0.001)
        assert server.upload("gate", GATE).json()["version"] == number + 1
    swapped.set()
    for thread in threads:
        thread.join()
    server.end()
    print(json.dumps({"requests": sum(asked), "swaps": 5, "failed": sum(failed)}))


def kill(home: Path, times: int, seed: int = 0) -> None:
    random.seed(seed)
    listed = interrupted = 0
    for _ in range(times):
        server = Server(home)
        listed = _check(server)
        interrupted = sum(
            job["state"] == "interrupted" for job in server.client.get("/v1/jobs?limit=1000").json()["data"]
        )
        threads = [threading.Thread(target=_busy, args=(server, work)) for work in (0, 1, 2)]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.02, 0.6))
        server.process.kill()
        for thread in threads:
            thread.join()
        server.end(signal.SIGKILL)
    server = Server(home)
    listed = _check(server)
    server.end()
    print(json.dumps({"kills": times, "versions": listed, "that_do_not_load": 0, "jobs_interrupted": interrupted}))


def _busy(server: Server, work: int) -> None:
    """Upload, upload what is larger, or train, until the server is gone."""
    options = {"trainer": "perceptron", "seed": 1, "options": {"epochs": 3000}}
    try:
        with httpx2.Client(base_url=server.client.base_url, timeout=20, trust_env=False) as client:
            while True:
                if work == 0:
                    client.put("/v1/models/small?filename=gate.json", content=GATE)
                elif work == 1:
                    client.put("/v1/models/padded?filename=gate.json", content=GATE + b" " * 2**22)
                else:
                    client.post("/v1/models/and/train", json=options)
                    client.post("/v1/models/xor/train", json=options)
                    time.sleep(0.05)
    except httpx2.HTTPError:
        return


def _check(server: Server) -> int:
    """Load every version that is listed; how many there are."""
    assert server.client.get("/readyz").json()["failed"] == {}
    count = 0
    for model in server.client.get("/v1/models").json()["data"]:
        for version in server.client.get(f"/v1/models/{model['id']}/versions").json()["data"]:
            name = f"{version['id']}@{version['version']}"
            reply = server.client.post(f"/v1/models/{name}/load")
            assert reply.json()["state"] == "ready", reply.text
            if not version["current"]:
                server.client.post(f"/v1/models/{name}/unload")
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("upload", "swap", "kill"))
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.what == "upload":
            upload(Path(folder), given.size * PIECE)
        elif given.what == "swap":
            swap(Path(folder), given.requests)
        else:
            kill(Path(folder), given.times)


if __name__ == "__main__":
    main()
