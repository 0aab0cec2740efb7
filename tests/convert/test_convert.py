"""Converters: what comes out is compared with what went in, here once more by its own library."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hansang
from hansang.cli import main
from hansang.convert import writers
from hansang.convert.convert import Wanted, convert_file
from hansang.core.errors import HansangError, LoadFailed, UnsafeArtifact
from hansang.training.saving import save_record

MLP = {
    "format": "hansang.mlp",
    "version": 1,
    "activation": "tanh",
    "inputs": [{"name": "left", "mean": 0.0, "std": 1.0}, {"name": "right", "mean": 0.5, "std": 2.0}],
    "target": {"name": "result", "kind": "binary", "classes": [0, 1]},
    "layers": [
        {"weight": [[1.5, -0.25], [0.5, 1.0]], "bias": [0.0, 0.125]},
        {"weight": [[1.0, -1.0]], "bias": [0.5]},
    ],
}


def trust(path: Path) -> tuple[str, ...]:
    return (f"sha256:{sha256(path.read_bytes()).hexdigest()}",)


def converted(path: Path, to: str | None = None, *, trusted: bool = False, **options: Any) -> tuple[Path, str]:
    return convert_file(Wanted(path, to, **options), None, trust(path) if trusted else ())


def rows(path: Path, *instances: Any) -> Any:
    with hansang.load(str(path)) as model:
        return model.predict(list(instances))


@pytest.fixture(scope="module")
def iris() -> Any:
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True)


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    """Note 001's way: an instance of one's own class, with NumPy weights, pickled."""
    (tmp_path / "gates.py").write_text(
        "import numpy\nclass GateModel:\n    def __init__(self):\n        self.gate_type = 'AND'\n"
        "        self.weights, self.bias = numpy.array([0.1, 0.2]), numpy.array([-0.25])\n"
    )
    path = tmp_path / "and.pkl"
    save = f"import gates, pickle; pickle.dump(gates.GateModel(), open({str(path)!r}, 'wb'))"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True)
    return path


@pytest.mark.parametrize("trusted", [False, True])
def test_a_pickled_perceptron_becomes_json(perceptron: Path, trusted: bool) -> None:
    written, compared = converted(perceptron, trusted=trusted)
    assert written == perceptron.with_suffix(".json")
    assert compared == "3 numbers, equal to the bit"
    record = json.loads(written.read_text())
    assert (record["weights"], record["bias"]) == ([0.1, 0.2], -0.25)
    assert rows(written, [1, 1], [0, 1]) == [1, 0]


def test_a_pickled_perceptron_becomes_safetensors_and_onnx(perceptron: Path) -> None:
    for to in ("safetensors", "onnx"):
        written, _ = converted(perceptron, to)
        assert [row if isinstance(row, int) else row["result"] for row in rows(written, [1, 1], [0, 1])] == [1, 0]


@pytest.mark.parametrize("container", ["json", "pickle", "safetensors", "torch"])
def test_a_network_of_ours_becomes_any_other_file_of_ours_and_onnx(tmp_path: Path, container: str) -> None:
    ending = {"pickle": "pkl", "torch": "pt"}.get(container, container)
    path = save_record(MLP, container, tmp_path / f"xor.{ending}")
    before = rows(path, [0.0, 1.0], [1.0, 1.0])
    for to in {"json", "safetensors", "onnx"} - {container}:
        written, _ = convert_file(Wanted(path, to), tmp_path / f"{to}-made.{to}", ())
        for one, other in zip(rows(written, [0.0, 1.0], [1.0, 1.0]), before, strict=True):
            assert one["result"] == other["result"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_a_pickled_dict_of_arrays_becomes_safetensors_to_the_bit(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = {
        "weight": np.random.default_rng(0).normal(size=(3, 4)).T,
        "steps": np.arange(3),
        "nan": np.array([np.nan]),
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(arrays))
    written, compared = converted(path)
    assert written.suffix == ".safetensors"
    assert compared == "16 numbers, equal to the bit"
    back = load_file(written)
    assert {name: (array.dtype, array.tobytes()) for name, array in back.items()} == {
        name: (array.dtype, np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()
    }


@pytest.mark.parametrize("name", ["clf.pkl", "clf.joblib"])
def test_a_pickled_estimator_becomes_skops_and_onnx_only_if_trusted(tmp_path: Path, iris: Any, name: str) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = iris
    clf = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    path = tmp_path / name
    joblib.dump(clf, path)
    with pytest.raises(UnsafeArtifact, match="LogisticRegression") as refused:
        converted(path, "skops")
    assert f"hansang models convert {path} --to skops --trust {trust(path)[0]}" in str(refused.value.hint)
    skops, compared = converted(path, trusted=True)
    assert (skops.suffix, compared.rpartition(", ")[2]) == (".skops", "equal to the bit")
    onnx, compared = converted(skops, "onnx")
    assert compared == "the answers to 200 random rows: label, probabilities"
    asked = features[::10].tolist()
    expected = clf.predict(features[::10]).tolist()
    assert [row["label"] for row in rows(skops, *asked)] == [row["label"] for row in rows(onnx, *asked)] == expected


def test_a_tree_is_no_skops_file_but_onnx(tmp_path: Path, iris: Any) -> None:
    from sklearn.ensemble import RandomForestClassifier

    features, labels = iris
    path = tmp_path / "forest.pkl"
    forest = RandomForestClassifier(5, random_state=0).fit(features, labels)
    path.write_bytes(pickle.dumps(forest))
    with pytest.raises(LoadFailed, match="does not know to be safe"):
        converted(path, "skops", trusted=True)
    written, _ = converted(path, "onnx", trusted=True)
    assert [row["label"] for row in rows(written, *features[::10].tolist())] == forest.predict(features[::10]).tolist()


def test_a_regressor_and_text_labels_become_onnx(tmp_path: Path, iris: Any) -> None:
    import skops.io
    from sklearn.linear_model import LinearRegression, LogisticRegression

    features, labels = iris
    regressor = LinearRegression().fit(features, labels)
    skops.io.dump(regressor, tmp_path / "value.skops")
    written, compared = converted(tmp_path / "value.skops", "onnx")
    assert compared.endswith(": value")
    assert rows(written, features[0].tolist()) == pytest.approx(regressor.predict(features[:1]), abs=1e-4)
    names = np.array(["setosa", "versicolor", "virginica"])[labels]
    skops.io.dump(LogisticRegression(max_iter=500).fit(features, names), tmp_path / "text.skops")
    written, _ = converted(tmp_path / "text.skops", "onnx")
    assert rows(written, features[0].tolist())[0]["label"] == "setosa"


NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.layers = torch.nn.Sequential(linear(2, 3), torch.nn.ReLU(), torch.nn.Dropout(), linear(3, 1))
        self.tied = self.layers[0]

    def forward(self, x):
        return torch.sigmoid(self.layers(x))

class Picture(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    save = (
        "import nets, torch; torch.manual_seed(0); net = nets.Net().eval(); torch.save(net.state_dict(), 'weights.pt');"
        "torch.save(net, 'whole.pt'); torch.save(nets.Picture().state_dict(), 'picture.pth');"
        "rows = ({0: torch.export.Dim('rows')},);"
        "torch.export.save(torch.export.export(net, (torch.zeros(2, 2),), dynamic_shapes=rows), 'exported.pt2')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", save], cwd=tmp_path, check=True)
    return tmp_path


def test_pytorch_becomes_safetensors_to_the_bit(nets: Path) -> None:
    import torch
    from safetensors.torch import load_file

    expected = torch.load(nets / "weights.pt", weights_only=True)
    for name, trusted in (("weights.pt", False), ("whole.pt", True)):
        written, compared = converted(nets / name, trusted=trusted)
        back = load_file(written)
        assert back.keys() == expected.keys()
        assert all(torch.equal(back[key], expected[key]) for key in back)
        assert "equal to the bit" in compared


def test_pytorch_becomes_onnx_that_answers_any_number_of_rows(nets: Path) -> None:
    class_ = f"{nets / 'nets.py'}:Net"
    answers = []
    for name, options in (
        ("weights.pt", {"class_": class_}),
        ("whole.pt", {"trusted": True}),
        ("exported.pt2", {}),
    ):
        written, compared = converted(nets / name, "onnx", **options)
        assert "close" in compared
        assert sorted(path.name for path in nets.glob("*.onnx*")) == [written.name]  # no data beside it
        answers.append(rows(written, [0.0, 1.0], [1.0, 1.0], [3.0, -2.0]))
        written.unlink()
    for other in answers[1:]:
        assert np.allclose(answers[0], other, atol=1e-6)


def test_a_shape_that_no_file_tells_comes_from_the_sample(nets: Path) -> None:
    picture = f"{nets / 'nets.py'}:Picture"
    with pytest.raises(LoadFailed, match="shape of a row") as raised:
        converted(nets / "picture.pth", "onnx", class_=picture)
    assert "--sample" in str(raised.value.hint)
    written, _ = converted(nets / "picture.pth", "onnx", class_=picture, sample=np.zeros((1, 8, 8)).tolist())
    (answer,) = rows(written, np.ones((1, 8, 8)).tolist())
    assert np.shape(answer) == (2,)


@pytest.mark.parametrize(
    ("name", "content", "to", "message"),
    [
        ("gone.pkl", None, "json", "There is no file"),
        ("empty.pkl", b"", "json", "no bytes at all"),
        ("list.pkl", pickle.dumps([1, 2]), None, "no perceptron"),
        ("cut.pkl", pickle.dumps({"weights": [1.0], "bias": 0.0})[:-4], None, "damaged|cut off"),
        ("p.pkl", pickle.dumps({"weights": [1.0], "bias": 0.0}), "skops", "cannot be made skops"),
        ("p.json", b'{"weights": [1.0], "bias": 0.0}', "json", "would be overwritten"),
        ("text.json", b"[1, 2]", "safetensors", "neither a perceptron"),
        ("done.onnx", b"\x08\x09", "safetensors", "ONNX"),
        ("words.txt", b"hello", None, "not one whole pickle"),
    ],
)
def test_what_cannot_be_converted_says_why_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes | None, to: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HansangError, match=message):
        converted(path, to)
    assert [each.name for each in tmp_path.iterdir()] == ([] if content is None else [name])


def test_weights_without_their_class_cannot_become_onnx(nets: Path) -> None:
    with pytest.raises(LoadFailed, match="--class"):
        converted(nets / "weights.pt", "onnx")


def test_what_differs_when_it_is_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps({"weights": [0.1], "bias": 0.0}))

    def rounding(record: Any, saved_as: str, file: Path) -> Path:
        return save_record({**record, "weights": [0.125]}, saved_as, file)

    monkeypatch.setattr(writers, "save_record", rounding)
    with pytest.raises(LoadFailed, match="weight differ"):
        converted(path)
    assert [each.name for each in tmp_path.iterdir()] == ["p.pkl"]


def test_the_command_says_where_it_is_and_what_was_compared(
    perceptron: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = perceptron.parent / "gate.json"
    assert main(["models", "convert", str(perceptron), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\nread back and compared: 3 numbers, equal to the bit\n"
    assert main(["models", "convert", str(perceptron), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(output)
