"""Pickles opened as data, without running them."""

from __future__ import annotations

import collections
import gzip
import io
import json
import pickle
import struct
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import malice
from hansang.core.errors import HansangError, LoadFailed, UnsafeArtifact
from hansang.local import load
from hansang.registry.pickles import convert_pickle_to_perceptron, read_record

CODE = """
import numpy as np

class GateModel:
    def __init__(self, gate_type="AND"):
        self.gate_type = gate_type
        self.weights = np.random.default_rng(1).random(1 if gate_type == "NOT" else 2)
        self.bias = np.random.default_rng(2).random(1)

class Slotted:
    __slots__ = ("weights", "bias")

    def __init__(self):
        self.weights, self.bias = [0.5, -0.25], 0.125
"""


@pytest.fixture
def model() -> Iterator[Any]:
    """A learner's module. It is gone again when a test wants it."""
    module = types.ModuleType("model")
    exec(CODE, module.__dict__)
    sys.modules["model"] = module
    yield module
    sys.modules.pop("model", None)


def pickled(path: Path, thing: Any, protocol: int = 4) -> Path:
    """The file, and nobody left who knows its class."""
    path.write_bytes(pickle.dumps(thing, protocol))
    sys.modules.pop("model", None)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_of_an_unknown_class_is_a_record(protocol: int, tmp_path: Path, model: Any) -> None:
    gate = model.GateModel("AND")
    record = read_record(pickled(tmp_path / "and.pkl", gate, protocol))
    assert "model" not in sys.modules
    assert record["class"] == "model.GateModel"
    assert record["state"]["gate_type"] == "AND"
    assert record["state"]["weights"].tolist() == gate.weights.tolist()
    assert record["state"]["bias"].tolist() == gate.bias.tolist()


@pytest.mark.parametrize("protocol", range(6))
def test_data_is_read_as_it_was_written(protocol: int, tmp_path: Path) -> None:
    data = {
        "numbers": [1, -5, 2.5, 10**30, True, None],
        "texts": ("a", "é가", b"\x00\xff", "x" * 3000),
        "sets": [{1, 2}, frozenset(["a"])],
        3: {"deep": [[[("x",)]]]},
        (1, "key"): complex(1, 2),
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    assert read_record(pickled(tmp_path / "data.pkl", data, protocol)) == data
    assert read_record(pickled(tmp_path / "bytes.pkl", bytearray(b"ab"), protocol)) == b"ab"


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">i2"),
    np.array([True, False]),
    np.array([1 + 2j], dtype="c8"),
    np.array(["가나", "b"]),
    np.array([b"ab"]),
    np.array(3.5),
    np.zeros((0, 3), dtype="f4"),
    np.arange(6, dtype="f2")[::2],
]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_numpys_numbers_are_built_from_their_bytes(protocol: int, tmp_path: Path) -> None:
    read = read_record(pickled(tmp_path / "arrays.pkl", [*ARRAYS, np.float32(1.5), np.int64(-7)], protocol))
    for array, back in zip(ARRAYS, read[:-2], strict=True):
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)
        assert back.flags.owndata or back.base is not None
    assert read[-2:] == [1.5, -7]


@pytest.mark.parametrize("packing", [0, 3, ("gzip", 1), ("xz", 1)], ids=str)
def test_joblib_is_read_too(packing: Any, tmp_path: Path) -> None:
    joblib.dump({"a": ARRAYS[0], "b": [ARRAYS[1], ARRAYS[5]], "c": "end"}, tmp_path / "x.joblib", compress=packing)
    read = read_record(tmp_path / "x.joblib")
    assert np.array_equal(read["a"], ARRAYS[0])
    assert np.array_equal(read["b"][0], ARRAYS[1])
    assert read["b"][1].tolist() == ["가나", "b"]
    assert read["c"] == "end"


def test_slots_are_state_too(tmp_path: Path, model: Any) -> None:
    record = read_record(pickled(tmp_path / "s.pkl", model.Slotted()))
    assert record["state"] == {"weights": [0.5, -0.25], "bias": 0.125}


@pytest.mark.parametrize("name", malice.NAMES)
def test_what_calls_a_function_is_refused_with_the_report(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(malice.pickles(tmp_path / "canary")[name])
    with pytest.raises(HansangError) as refusal:
        read_record(path)
    assert refusal.value.message.startswith("x.pkl is a pickle.")
    assert not (tmp_path / "canary").exists()


def test_a_function_that_is_not_dangerous_is_not_called_either(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cmodel\nbuild\n(I1\ntR.")
    with pytest.raises(UnsafeArtifact, match=r"without running it: it calls model\.build\(1\)"):
        read_record(path)


def dtype(state: bytes, code: bytes = b"f8") -> bytes:
    return b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"\x89\x88\x87R" + state


def array(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x03" + made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb."


PLAIN = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    "data",
    [
        array(dtype(PLAIN), b"K\x02\x85", b"C\x08" + bytes(8)),
        array(dtype(PLAIN), b"J\xff\xff\xff\x7f\x85", b"C\x08" + bytes(8)),
        array(dtype(PLAIN), b"J\xff\xff\xff\xff\x85", b"C\x08" + bytes(8)),
        array(dtype(PLAIN), b"(" + b"K\x01" * 70 + b"t", b"C\x08" + bytes(8)),
        array(dtype(PLAIN, b"O8"), b"K\x01\x85", b"]N\x61"),
        array(dtype(PLAIN, b"O8"), b"K\x01\x85", b"C\x08" + bytes(8)),
        array(
            dtype(b"(K\x03U\x01<NU\x01a\x85}U\x01aN\x86sK\x08K\x01K\x3ftb", b"V8"), b"K\x01\x85", b"C\x08" + bytes(8)
        ),
        array(dtype(PLAIN, b"f999999999"), b"K\x01\x85", b"C\x08" + bytes(8)),
        array(dtype(PLAIN, b"f8,O8"), b"K\x01\x85", b"C\x10" + bytes(16)),
        array(dtype(b"(K\x03tb"), b"K\x01\x85", b"C\x08" + bytes(8)),
        array(b"N", b"K\x01\x85", b"C\x08" + bytes(8)),
        b"\x80\x03cnumpy.core.multiarray\nscalar\n" + dtype(PLAIN, b"O8") + b"C\x08" + bytes(8) + b"\x86R.",
        b"cbuiltins\nbytes\nL1000000000000L\n\x85R.",
        b"cbuiltins\nbytearray\nL1000000000000L\n\x85R.",
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x04\x8e" + b"\xff" * 8,
        b"\x80\x04](" + b"]" + b"\x94h\x00ae.",
        b"\x80\x04" + b"]" * 200 + b"a" * 199 + b".",
        b"\x80\x04]\x94" + b"".join(b"](" + b"h%c" % place * 10 + b"e\x94" for place in range(12)) + b".",
        b"}(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(2, 9)) + b"u.",
        b"}]Ns.",
        b"\x80\x04\x8f(]\x90.",
        b"(Na.",
        b"Phere\n.",
    ],
    ids=range(24),
)
def test_bombs_and_lies_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(HansangError):
        read_record(path)


def test_the_same_part_said_many_times_is_counted_every_time(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    content = bytes(8 * 50_000)
    one = array(
        dtype(PLAIN), b"J" + struct.pack("<i", 50_000) + b"\x85", b"B" + struct.pack("<I", len(content)) + content
    )
    path.write_bytes(one[:-1] + b"q\x00" + b"](" + b"h\x00" * 1000 + b"e.")
    with pytest.raises(UnsafeArtifact, match="parts"):
        read_record(path)


@pytest.mark.parametrize(
    "data",
    [b"hello", b"\x93NUMPY", pickle.dumps(1) + pickle.dumps(2), b"PK\x05\x06" + bytes(18), pickle.dumps([1])[:-1]],
)
def test_what_is_not_one_whole_pickle_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(LoadFailed, match=r"x\.pkl"):
        read_record(path)


def test_a_pickle_in_an_archive_is_not_one_file_of_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    for name in ("x.npz", "x.npy"):
        with pytest.raises(UnsafeArtifact, match="lies in an archive or an array"):
            read_record(tmp_path / name)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("gate", ["AND", "NOT"])
def test_a_learners_gate_becomes_a_perceptron_to_the_bit(gate: str, protocol: int, tmp_path: Path, model: Any) -> None:
    made = model.GateModel(gate)
    converted = convert_pickle_to_perceptron(pickled(tmp_path / "gate.pkl", made, protocol))
    assert converted == {"weights": made.weights.tolist(), "bias": float(made.bias[0]), "title": gate}
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(converted), encoding="utf-8")
    with load(path) as served:
        assert [*served.model.weights, served.model.bias] == [*made.weights, *made.bias]


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        ({"weights": [1, 2], "bias": 0}, {"weights": [1.0, 2.0], "bias": 0.0}),
        ({"w": np.array([[0.5, 0.25]]), "b": np.float64(-0.75)}, {"weights": [0.5, 0.25], "bias": -0.75}),
        ({"AND": {"weights": (1.0,), "bias": [2]}}, {"weights": [1.0], "bias": 2.0}),
        ([{"weights": [1.0], "bias": 1, "gate_type": "not"}], {"weights": [1.0], "bias": 1.0, "title": "not"}),
    ],
)
def test_a_dict_of_weights_and_bias_will_do(thing: Any, expected: Any, tmp_path: Path) -> None:
    assert convert_pickle_to_perceptron(pickled(tmp_path / "x.pkl", thing)) == expected


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        ({"a": 1}, "a dict with a, and no weights and bias"),
        ([], "a list"),
        (3, "a int"),
        ({"weights": [1.0]}, "bias are not finite numbers"),
        ({"weights": [], "bias": 1}, "weights are not finite"),
        ({"weights": [float("nan")], "bias": 1}, "weights are not finite"),
        ({"weights": [True], "bias": 1}, "weights are not finite"),
        ({"weights": np.ones((2, 2)), "bias": 1}, r"of shape \(2, 2\)"),
        ({"weights": np.array(["a"]), "bias": 1}, "expected a row of numbers"),
        ({"weights": [1.0], "bias": [1, 2]}, "bias is 2 numbers"),
        ({"weights": [1.0, 2.0], "bias": 1, "gate_type": "NOT"}, "takes 1 input, and has 2 weights"),
        ({"weights": [1.0], "bias": 1, "gate_type": "and"}, "takes 2 inputs, and has 1 weights"),
        ({"AND": {"weights": [1.0], "bias": 1}, "OR": {"weights": [1.0], "bias": 1}}, "several perceptrons"),
    ],
)
def test_what_is_no_perceptron_is_told_so(thing: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=told):
        convert_pickle_to_perceptron(pickled(tmp_path / "x.pkl", thing))


SEEDS = [
    *malice.pickles(Path("/nowhere/canary")).values(),
    *(pickle.dumps({"a": [*ARRAYS[:3], {1, 2}], "b": collections.OrderedDict(a=1)}, protocol) for protocol in range(6)),
]


@given(
    data=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), max_size=5),
    packed=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_raises_anything_of_pythons_or_runs(
    tmp_path: Path, data: bytes, changes: list[tuple[float, int, bytes]], packed: bool
) -> None:
    changed = bytearray(data)
    for place, length, content in changes:
        start = int(place * len(changed))
        changed[start : start + length] = content
    path = tmp_path / "x.pkl"
    path.write_bytes(gzip.compress(bytes(changed)) if packed else bytes(changed))
    for read in (read_record, convert_pickle_to_perceptron):
        with suppress(HansangError):
            read(path)
    assert not Path("/nowhere").exists()


def test_a_stream_is_only_read_forward(tmp_path: Path) -> None:
    """Pickles behind a byte order mark are read as they are without it."""
    file = io.BytesIO()
    pickle.dump([1, 2], file)
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\xef\xbb\xbf" + file.getvalue())
    assert read_record(path) == [1, 2]
