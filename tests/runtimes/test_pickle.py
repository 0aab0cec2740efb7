"""Trusted pickles: what they hold is served from a process of its own; in the server they are only a name."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hansang.app import Server, open_source
from hansang.core.errors import LoadFailed, UnsafeArtifact
from hansang.core.model import LoadContext, Model
from hansang.core.source import HOSTED, TRUSTED, Source
from hansang.registry.registry import ModelSpec
from hansang.settings import Settings

GATE = """
class GateModel:
    def __init__(self, gate_type="AND"):
        self.gate_type = gate_type
        self.weights, self.bias = [0.5, 0.5], -0.75

    def predict(self, input_data):
        total = sum(w * x for w, x in zip(self.weights, input_data)) + self.bias
        return 1 if total >= 0 else 0

def both(left: int, right: int) -> int:
    return left & right

def make():
    import torch
    return torch.nn.Linear(2, 1)
"""


def trust(path: Path) -> str:
    return f"sha256:{sha256(path.read_bytes()).hexdigest()}"


def made(folder: Path, name: str, program: str) -> Path:
    """A pickle of `thing`, which `program` made in a process of its own, so that nothing of it is imported here."""
    (folder / "model.py").write_text(GATE, encoding="utf-8")
    path = folder / name
    save = {".joblib": "import joblib; joblib.dump(thing, {!r})", ".pt": "import torch; torch.save(thing, {!r})"}
    ending = save.get(path.suffix, "import pickle; pickle.dump(thing, open({!r}, 'wb'))").format(str(path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", f"{program}\n{ending}"], cwd=folder, check=True)
    return path


SKLEARN = """
from sklearn.tree import DecisionTreeClassifier
thing = DecisionTreeClassifier().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0])
"""
TORCH = """
import model, torch
thing = model.make()
with torch.no_grad():
    thing.weight[:] = torch.tensor([[2.0, 3.0]])
    thing.bias[:] = 1.0
"""


@pytest.mark.parametrize(
    ("name", "program", "row", "expected"),
    [
        ("and.pkl", "import model; thing = model.GateModel()", [1, 1], 1),
        ("both.pkl", "import model; thing = model.both", [1, 3], 1),
        ("tree.pkl", SKLEARN, [0, 1], {"label": 1, "probabilities": [0.0, 1.0]}),
        ("tree.joblib", SKLEARN, [1, 1], {"label": 0, "probabilities": [1.0, 0.0]}),
        ("net.pt", TORCH, [1.0, 1.0], [6.0]),
        ("record.pkl", "import collections; thing = collections.OrderedDict(weights=[1.0, 1.0], bias=-1.5)", [1, 1], 1),
    ],
)
def test_what_a_trusted_pickle_holds_is_served(
    serve: Callable[..., Any], tmp_path: Path, name: str, program: str, row: Any, expected: Any
) -> None:
    path = made(tmp_path, name, program)
    with pytest.raises(UnsafeArtifact) as refused:
        Server([str(path)], Settings(home=tmp_path / "home"))
    assert f"--trust {trust(path)}" in str(refused.value.hint)
    served = serve(str(path), trust=[trust(path)], home=tmp_path / "home")
    assert served.predict(path.stem, row) == {"predictions": [expected]}
    assert "model" not in sys.modules


def test_a_configured_model_is_trusted_by_the_configuration(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = made(tmp_path, "and.pkl", "import model; thing = model.GateModel()")
    served = serve(
        models={"gate": {"source": str(path)}}, trust=["sha256:" + "0" * 64, trust(path)], home=tmp_path / "home"
    )
    assert served.predict("gate", [0, 1], [1, 1]) == {"predictions": [0, 1]}


def test_no_placement_brings_a_pickle_into_the_server(tmp_path: Path) -> None:
    path = made(tmp_path, "and.pkl", "import model; thing = model.GateModel()")
    source = Source(str(path), path=path)
    for placement in ("thread", "inline"):
        server = Server(
            [ModelSpec("gate", source, placement=placement)],  # type: ignore[arg-type]
            Settings(trust=[trust(path)], home=tmp_path / "home"),
        )
        with pytest.raises(LoadFailed, match="in a process of its own or not at all"):
            server.registry.find("gate").model.load(LoadContext())
    assert "model" not in sys.modules


def opened(path: Path, digest: str | None = None) -> Any:
    """As the process opens it. Only for files that hold nothing but data."""
    options = {TRUSTED: digest or sha256(path.read_bytes()).hexdigest(), HOSTED: "yes"}
    return open_source(Source(str(path), path=path, options=options))


def test_only_the_trusted_bytes_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "record.pkl"
    path.write_bytes(pickle.dumps({"weights": [1.0], "bias": 0.0}))
    digest = sha256(path.read_bytes()).hexdigest()
    assert isinstance(opened(path, digest), Model)
    path.write_bytes(pickle.dumps({"weights": [2.0], "bias": 0.0}))
    with pytest.raises(LoadFailed, match="not the file that was trusted"):
        opened(path, digest)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "cannot be unpickled", "copied"),
        (pickle.dumps([1, 2])[:-3], "a pickle.* cannot be unpickled", "another version"),
        (pickle.dumps([1, 2]), "holds a list, which cannot answer", "Save the model itself"),
        (b"c__main__\nGateModel\n.", "__main__", "Move the class to model.py"),
        (b"cno_such_package_at_all\nNet\n.", "No module named 'no_such_package_at_all'", "no_such_package_at_all.py"),
        (b"PK\x03\x04 and no archive", "a ZIP archive.* cannot be unpickled", ""),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(LoadFailed, match=message) as raised:
        opened(path)
    assert hint in str(raised.value.hint)


def test_formats_that_are_no_pickles_stay_with_their_runtimes(tmp_path: Path) -> None:
    path = tmp_path / "and.json"
    path.write_text('{"weights": [0.5, 0.5], "bias": -0.75}')
    assert opened(path).placement == "inline"
