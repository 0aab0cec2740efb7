"""Containers of our records: a pickle of data is opened, one that would import is not, and a broken file is told."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hansang.core.errors import HansangError, LoadFailed
from hansang.core.source import parse
from hansang.runtimes.records import RecordRuntime
from learning import ask, opened

GATE = {"format": "hansang.perceptron", "inputs": ["left", "right"], "weights": [0.1 + 0.2, 0.5], "bias": -0.75}


def saved(folder: Path, ending: str) -> Path:
    path = folder / f"and{ending}"
    if ending == ".json":
        path.write_text(json.dumps(GATE), encoding="utf-8")
    elif ending == ".safetensors":
        rest = {key: GATE[key] for key in ("format", "inputs")}
        arrays = {"weight": np.array(GATE["weights"]), "bias": np.array([GATE["bias"]])}
        save_file(arrays, path, metadata={"hansang": json.dumps(rest)})
    else:
        path.write_bytes(pickle.dumps(GATE, protocol=4))
    return path


@pytest.mark.parametrize("ending", [".json", ".pkl", ".pickle", ".safetensors"])
def test_every_container_gives_the_same_gate(tmp_path: Path, ending: str) -> None:
    model = opened(saved(tmp_path, ending))
    assert (model.weights, model.bias) == (GATE["weights"], GATE["bias"])  # type: ignore[attr-defined]
    assert ask(model, left=[0, 0, 1, 1], right=[0, 1, 0, 1])["result"] == [0, 0, 0, 1]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_data_is_opened_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "and.pkl"
    path.write_bytes(pickle.dumps(GATE, protocol=protocol))
    assert ask(opened(path), left=[1], right=[1])["result"] == [1]


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_import_is_refused_and_does_nothing(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "and.pkl"
    for evil in (Evil(canary), {**GATE, "weights": Evil(canary)}, OrderedDict(GATE), np.zeros(2)):
        path.write_bytes(pickle.dumps(evil, protocol=protocol))
        with pytest.raises(LoadFailed, match="would import") as caught:
            opened(path)
        assert "convert" in str(caught.value.hint)
    assert not canary.exists()


def test_a_pickle_that_refers_to_something_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "and.pkl"
    path.write_bytes(b"Pid\n.")
    with pytest.raises(LoadFailed, match="outside"):
        opened(path)


@pytest.mark.parametrize("ending", [".json", ".pkl", ".safetensors"])
def test_a_file_cut_at_any_place_is_told_by_name(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path, ending)
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        if RecordRuntime().claims(parse(str(path))[1]):
            with pytest.raises(LoadFailed, match=path.name) as caught:
                opened(path)
            assert caught.value.hint


@pytest.mark.parametrize("ending", [".json", ".pkl", ".safetensors"])
def test_a_flipped_bit_never_brings_out_anything_but_our_errors(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path, ending)
    content = bytearray(path.read_bytes())
    chance = random.Random(3)
    for _ in range(200):
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        with suppress(HansangError):
            ask(opened(path), left=[1.0], right=[1.0])


def test_safetensors_of_others_are_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    assert not RecordRuntime().claims(parse(str(path))[1])


@pytest.mark.parametrize("metadata", ["{}", "[]", "nonsense", '{"format": "hansang.mlp"}', "5", "[" * 5000])
def test_a_safetensors_header_of_ours_that_lies_is_told(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"weight": np.zeros(3)}, path, metadata={"hansang": metadata})
    with pytest.raises(LoadFailed, match=r"net\.safetensors"):
        opened(path)


def test_a_file_too_large_for_a_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(LoadFailed, match="too large"):
        opened(path)
