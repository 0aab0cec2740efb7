"""PyTorch models in every form they are saved in, whole and broken."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import Running
from hansang.app import Server
from hansang.core.errors import HansangError, InvalidInput, LoadFailed, ModelFailed, UnsafeArtifact
from hansang.core.model import LoadContext, Model
from hansang.core.source import parse
from hansang.runtimes.torch import TorchRuntime
from hansang.settings import Settings
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime
from learning import ask, opened

torch = pytest.importorskip("torch")

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(hidden, 2)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x))))) * self.scale


class Wider(Net):
    def __init__(self) -> None:
        super().__init__(6)


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2)


class Needs(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).mean(dim=1)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor):
        y = self.a(x)
        return y, y.sum(dim=1)


class Named(Pair):
    def forward(self, x: torch.Tensor):
        y = self.a(x)
        return {"logits": y, "total": y.sum(dim=1)}


class Mean(Pair):
    def forward(self, x: torch.Tensor):
        return self.a(x).mean()


class Odd(Pair):
    def forward(self, x: torch.Tensor):
        return {"y": self.a(x), "version": 3}


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3))
"""
ROWS = [[0.5, -1.0, 2.0], [1.0, 0.0, -3.0], [0.0, 0.25, 1.0], [4.0, 4.0, 4.0], [-1.0, 2.0, -3.0]]


class Files:
    """Files of modules, made once. `nets` has the classes, `net` is one of them, `said` what it answers to ROWS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "nets.py"
        self.code.write_text(NETS, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("nets_of_the_test", self.code)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.nets = vars(module)
        torch.manual_seed(3)
        self.net = self.nets["Net"]()
        self.net.norm.running_mean.uniform_(-1, 1)
        self.net.eval()
        with torch.inference_mode():
            self.said = self.net(torch.tensor(ROWS)).tolist()
        self.script = self.traced("net.pt", self.net.train())  # saved in training mode: it must be put into eval
        self.net.eval()
        self.static = self.exported("static.pt2", self.net, torch.zeros(2, 3))
        rows = torch.export.Dim("rows")
        self.dynamic = self.exported("dynamic.pt2", self.net, torch.zeros(2, 3), {0: rows})
        self.state = folder / "state.pth"
        torch.save(self.net.state_dict(), self.state)
        from safetensors.torch import save_file

        self.weights = folder / "weights.safetensors"
        save_file(self.net.state_dict(), self.weights)
        self.pickled = folder / "pickled.pt"
        torch.save(torch.nn.Linear(3, 2), self.pickled)

    def of(self, name: str) -> str:
        return f"{self.code}:{name}"

    def traced(self, name: str, module: Any) -> Path:
        path = self.folder / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(module), str(path))
        return path

    def exported(self, name: str, module: Any, example: Any, dynamic: Any = None) -> Path:
        path = self.folder / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(module, (example,), dynamic_shapes=dynamic and (dynamic,)), path)
        return path

    def saved(self, name: str, module: str) -> Path:
        path = self.folder / f"{name}.pth"
        torch.save(self.nets[module]().state_dict(), path)
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    threads = torch.get_num_threads()
    yield Files(tmp_path_factory.mktemp("torch"))
    torch.set_num_threads(threads)


def failed(path: Path, **options: str) -> HansangError:
    with pytest.raises(LoadFailed) as caught:
        opened(path, **options)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def forms(files: Files) -> Mapping[str, tuple[Path, dict[str, str]]]:
    with_class = {"class": files.of("Net")}
    return {
        "TorchScript": (files.script, {}),
        "export of a fixed batch": (files.static, {}),
        "export of any batch": (files.dynamic, {}),
        "state dict": (files.state, with_class),
        "safetensors": (files.weights, with_class),
    }


FORMS = ["TorchScript", "export of a fixed batch", "export of any batch", "state dict", "safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_as_the_module_did(files: Files, form: str) -> None:
    path, options = forms(files)[form]
    model = opened(path, **options)
    for rows in (ROWS, ROWS[:1], ROWS[:4]):
        answers = ask(model, inputs=rows)
        assert list(answers) == ["outputs"]
        for said, wanted in zip(answers["outputs"], files.said, strict=False):
            assert said == pytest.approx(wanted, rel=1e-5)
    assert ask(model, inputs=ROWS) == ask(model, inputs=ROWS), "dropout is off"
    assert model.signature is not None
    assert model.signature.describe() == "(inputs: float32[3]) -> (outputs: json)"


@pytest.mark.parametrize("form", FORMS)
def test_it_keeps_the_contract(files: Files, form: str) -> None:
    path, options = forms(files)[form]
    source = parse(str(path))[1]
    source = type(source)(source.text, path=source.path, options=options)
    model = TorchRuntime().open(source)
    assert isinstance(model, Model)
    requests = [Table({"inputs": ROWS[:2]}, 2), Table({"inputs": ROWS[2:]}, 3), Table({"inputs": ROWS[1:2]}, 1)]
    check_runtime(model, requests, wrong=Table({"inputs": [[1.0, 2.0]]}, 1))


def test_what_it_says_of_itself(files: Files) -> None:
    info = opened(files.state, **{"class": files.of("Net")}).info
    assert info["format"] == "state dict"
    assert info["parameters"] == {"float32": 15 + 5 + 10 + 10 + 2 + 10 + 1, "int64": 1}
    assert info["bytes"] == 4 * 53 + 8


def test_it_is_served_with_its_class(serve: Callable[..., Running], files: Files) -> None:
    server = serve(
        str(files.script),
        models={"net2": {"source": str(files.weights), "class": files.of("Net")}},
    )
    for name in ("net", "net2"):
        assert server.predict(name, *ROWS)["predictions"][0] == pytest.approx(files.said[0], rel=1e-5)
    wrong = server.predict("net", [1, 2])["error"]
    assert "expected float32[3]" in wrong["message"]


def test_weights_without_their_class_say_how_to_name_it(files: Files) -> None:
    for path in (files.state, files.weights):
        fault = failed(path)
        assert "10 tensors" in fault.message
        assert "--class nets.py:Net" in str(fault.hint)


def test_weights_of_another_class_name_what_is_missing_and_what_is_too_much(files: Files) -> None:
    for path in (files.state, files.weights):
        told = failed(path, **{"class": files.of("Other")}).message
        assert "missing head.weight, head.bias" in told
        assert "unexpected " in told
        assert "last.weight" in told


def test_weights_of_another_size_name_both_shapes(files: Files) -> None:
    told = failed(files.state, **{"class": files.of("Wider")}).message
    assert "first.weight" in told
    assert "[5, 3]" in told
    assert "[6, 3]" in told


@pytest.mark.parametrize("name", ["Needs", "Nothing", "nn"])
def test_a_class_that_cannot_be_made_is_told(files: Files, name: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        opened(files.state, **{"class": files.of(name)})
    assert name in caught.value.message


def test_weights_below_a_key_of_their_own(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": files.net.state_dict(), "epoch": 3}, path)
    answers = ask(opened(path, **{"class": files.of("Net")}), inputs=ROWS)
    assert answers["outputs"][0] == pytest.approx(files.said[0], rel=1e-5)


@pytest.mark.parametrize("saved", [5, [1, 2], {"a": 1}, "text"])
def test_what_is_no_state_dict_is_told(files: Files, tmp_path: Path, saved: Any) -> None:
    path = tmp_path / "saved.pt"
    torch.save(saved, path)
    assert "not a state dict" in failed(path, **{"class": files.of("Net")}).message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_computed_in_their_own_type(files: Files, tmp_path: Path, dtype: str) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2)).to(getattr(torch, dtype))
    model = opened(files.traced(f"{dtype}.pt", linear))
    with torch.inference_mode():
        wanted = linear(torch.tensor(ROWS, dtype=getattr(torch, dtype))).tolist()
    assert ask(model, inputs=ROWS)["outputs"] == wanted
    assert model.info["parameters"] == {dtype: 8}


def test_arrays_are_taken_as_they_come(files: Files) -> None:
    np = pytest.importorskip("numpy")
    model = opened(files.script)
    wanted = ask(model, inputs=ROWS)
    for dtype in ("float32", "float64"):
        assert ask(model, inputs=np.array(ROWS, dtype=dtype)) == wanted
    assert ask(model, inputs=list(np.array(ROWS, dtype="float32"))) == wanted


def test_several_outputs_are_columns(files: Files) -> None:
    model = opened(files.saved("pair", "Pair"), **{"class": files.of("Pair")})
    answers = ask(model, inputs=ROWS)
    assert list(answers) == ["outputs_0", "outputs_1"]
    assert answers["outputs_1"] == pytest.approx([sum(row) for row in answers["outputs_0"]], rel=1e-4, abs=1e-6)
    assert model.signature is not None
    assert [field.name for field in model.signature.outputs] == ["outputs_0", "outputs_1"]
    fixed = opened(files.exported("pair.pt2", files.nets["Pair"](), torch.zeros(2, 3)))
    assert [len(column) for column in ask(fixed, inputs=ROWS).values()] == [5, 5]


def test_named_outputs_are_columns_of_their_names(files: Files) -> None:
    source = files.saved("named", "Named")
    model = opened(source, **{"class": files.of("Named")})
    assert list(ask(model, inputs=ROWS)) == ["logits", "total"]
    requests = [Table({"inputs": ROWS[:2]}, 2), Table({"inputs": ROWS[2:3]}, 1)]
    check_runtime(model, requests, wrong=Table({"inputs": [[1.0]]}, 1))


@pytest.mark.parametrize(("name", "told"), [("Mean", "() for 5 rows"), ("Odd", "version is a int, not a tensor")])
def test_answers_that_are_not_one_for_each_row_are_told(files: Files, name: str, told: str) -> None:
    model = opened(files.saved(name, name), **{"class": files.of(name)})
    with pytest.raises(ModelFailed) as caught:
        ask(model, inputs=ROWS)
    assert told in caught.value.message


def test_whole_numbers_are_learnt_from_a_sample(files: Files) -> None:
    path = files.saved("words", "Words")
    model = opened(path, sample=[1, 2, 3], **{"class": files.of("Words")})
    assert model.signature is not None
    assert model.signature.inputs[0].describe() == "int64[3]"
    assert len(ask(model, inputs=[[1, 2, 3], [9, 0, 0]])["outputs"]) == 2
    with pytest.raises(InvalidInput, match="refuses this input"):
        ask(model, inputs=[[1, 2, 99]])
    unsaid = opened(path, **{"class": files.of("Words")})
    with pytest.raises(InvalidInput) as caught:
        ask(unsaid, inputs=[[1.0, 2.0, 3.0, 4.0]])
    assert "--sample" in str(caught.value.hint)


def test_an_export_knows_that_it_takes_whole_numbers(files: Files) -> None:
    path = files.exported("words.pt2", files.nets["Words"](), torch.zeros(2, 3, dtype=torch.int64))
    model = opened(path)
    assert model.signature is not None
    assert model.signature.inputs[0].describe() == "int64[3]"
    assert len(ask(model, inputs=[[1, 2, 3]])["outputs"]) == 1


def test_a_sample_without_points_is_a_row_of_floats_where_ids_are_not_taken(files: Files) -> None:
    model = opened(files.script, sample=[0, 1, 2])
    assert model.signature is not None
    assert model.signature.inputs[0].describe() == "float32[3]"


@pytest.mark.parametrize("sample", [[1.0, 2.0], [[1.0], [2.0, 3.0]], "text", {"a": 1}])
def test_a_sample_that_it_does_not_take_is_told(files: Files, sample: Any) -> None:
    with pytest.raises(HansangError):
        opened(files.script, sample=sample)


def test_pictures_of_any_size(files: Files) -> None:
    model = opened(files.saved("picture", "Picture"), **{"class": files.of("Picture")})
    assert model.signature is not None
    assert model.signature.inputs[0].describe() == "float32[1, any, any]"
    for size in (4, 7):
        assert len(ask(model, inputs=[[[[0.5] * size] * size]])["outputs"][0]) == 2
    with pytest.raises(InvalidInput, match="refuses this input"):
        ask(model, inputs=[[[[0.5] * 2] * 2]])


def test_a_pickled_module_is_refused_with_what_it_would_run(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtifact) as caught:
        Server([str(files.pickled)], Settings(home=tmp_path))
    assert "torch.nn.modules.linear.Linear" in caught.value.message
    assert "would run code" in failed(files.pickled).message, "and the runtime refuses it by itself"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_told(files: Files, tmp_path: Path, form: str, kept: float) -> None:
    path, options = forms(files)[form]
    content = path.read_bytes()
    cut = tmp_path / path.name
    cut.write_bytes(content[: int(len(content) * kept)])
    assert "would run code" not in failed(cut, **options).message


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_bit_never_harms(files: Files, tmp_path: Path, form: str) -> None:
    """It is refused, or (where a format has no checksum) another number; nothing but a HansangError comes out."""
    path, options = forms(files)[form]
    content = bytearray(path.read_bytes())
    flipped = tmp_path / path.name
    for place in range(7, len(content), max(1, len(content) // 12)):
        content[place] ^= 0x10
        flipped.write_bytes(content)
        content[place] ^= 0x10
        with suppress(HansangError):
            ask(opened(flipped, **options), inputs=ROWS)


def test_another_kind_of_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "page.pt"
    path.write_text("<!doctype html><html></html>")
    assert "an HTML page" in failed(path).message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a ZIP archive, but no PyTorch file" in failed(path).message
    path.write_bytes(b"\x80\x04garbage")
    assert "not a whole PyTorch file" in failed(path).message


def test_unloading_lets_the_module_go(files: Files) -> None:
    model = opened(files.script)
    module = weakref.ref(model._module)  # type: ignore[attr-defined]
    assert module() is not None
    model.unload()
    gc.collect()
    assert module() is None
    model.load(LoadContext())
    assert ask(model, inputs=ROWS)["outputs"][0] == pytest.approx(files.said[0], rel=1e-5)


WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from hansang.core.errors import HansangError
from hansang.core.source import parse
from hansang.core.model import LoadContext
from hansang.runtimes.torch import TorchRuntime
from hansang.training.data import gate
from hansang.training.mlp import MLPTrainer
for path in sys.argv[1:]:
    try:
        TorchRuntime().open(parse(path)[1]).load(LoadContext())
    except HansangError as exc:
        print(exc.message, exc.hint)
try:
    MLPTrainer().train(gate("xor"), {}, 0, "json", Path("."), None)
except HansangError as exc:
    print(exc.message, exc.hint)
"""


def test_without_pytorch_the_command_that_installs_it_is_told(files: Files) -> None:
    paths = [str(files.script), str(files.dynamic), str(files.state), str(files.weights)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.endswith('not installed. pip install "hansang[torch]"') for line in lines)
