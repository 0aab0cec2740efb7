"""Flags of `hansang serve` that are for one of several models, and `--trust`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hansang import settings
from terminal import started, typed

NETS = """
import torch


class Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.out(x)
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of `nets.py:Double`, which doubles."""
    import torch
    from safetensors.torch import save_file

    (tmp_path / "nets.py").write_text(NETS)
    path = tmp_path / "net.safetensors"
    save_file({"out.weight": torch.tensor([[2.0]]), "out.bias": torch.tensor([0.0])}, path)
    return path


@pytest.mark.parametrize("flag", ["nets.py:Double", "net=nets.py:Double"])
def test_weights_are_served_with_the_class_that_is_named(weights: Path, flag: str) -> None:
    with started("serve", "net.safetensors", "--class", flag, "--port", "0", cwd=weights.parent) as server:
        server.until_ready()
        with server.client() as client:
            told = client.post("/v1/models/net:predict", json={"instances": [[3.0]]}).json()
    assert told == {"predictions": [[6.0]]}


def test_the_configuration_names_a_class_beside_itself(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "hansang.toml").write_text('[models.net]\nsource = "net.safetensors"\nclass = "nets.py:Double"\n')
    with started("serve", "--config", str(tmp_path / "hansang.toml"), "--port", "0", cwd=folder) as server:
        server.until_ready()
        with server.client() as client:
            told = client.post("/v1/models/net:predict", json={"instances": [[0.5]]}).json()
    assert told == {"predictions": [[1.0]]}


def test_a_class_that_is_not_there_or_not_said_for_whom_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    near = typed("serve", "net.safetensors", "--class", "net.py:Double", "--port", "0")
    assert near.err == "error: --class 'net.py:Double': there is no file net.py.\nhint: Did you mean nets.py:Double?\n"
    bare = typed("serve", "net.safetensors", "--class", "Double", "--port", "0")
    assert "does not name a class in a file" in bare.err
    two = typed("serve", "net.safetensors", "b=net.safetensors", "--class", "nets.py:Double", "--port", "0")
    assert "hint: Write --class NAME=FILE.py:Class, with one of: net, b" in two.err


def test_a_hash_is_trusted_by_flag_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = f"sha256:{'0' * 64}"
    assert settings.load({"trust": digest}).trust == [digest]
    config = tmp_path / "hansang.toml"
    config.write_text(f'trust = ["{digest}"]\n')
    assert settings.load(config=config).trust == [digest]
    monkeypatch.setenv("HANSANG_TRUST", f"{digest}, {digest}")
    assert settings.load().trust == [digest, digest]
    assert "--trust" in typed("serve", "--help").out
