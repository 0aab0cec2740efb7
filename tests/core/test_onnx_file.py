"""What is read from an ONNX file's bytes: counts, metadata, and every place where a tensor's data may lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.onnx_ml_pb2 import DESCRIPTOR

from hansang.core import onnx_file
from hansang.core.errors import LoadFailed
from hansang.core.model import LoadContext
from hansang.core.source import parse
from hansang.runtimes.onnx import OnnxRuntime

WEIGHTS = np.arange(4, dtype=np.float32)


def graph_of(*tensors: TensorProto, nodes: Any = ()) -> Any:
    value = helper.make_tensor_value_info
    nodes = [*nodes, helper.make_node("Add", ["x", "w"], ["y"])]
    ports = [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 4])]
    return helper.make_graph(nodes, "test", *ports, list(tensors))


def model_of(graph: Any) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def outside(location: str) -> TensorProto:
    """A tensor `w` whose data lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_numbers_are_counted_by_dtype_in_every_place(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(3, np.int64), "c"))
    forest = helper.make_node("Any", [], ["f"], nodes_values=[0.5] * 1000, nodes_ids=list(range(1000)))
    inner = graph_of(numpy_helper.from_array(np.zeros((2, 5), np.float16), "inner"))
    branch = helper.make_node("If", ["x"], ["i"], then_branch=inner, else_branch=inner)
    weights = numpy_helper.from_array(WEIGHTS, "w")
    found = onnx_file.read(saved(tmp_path, model_of(graph_of(weights, nodes=[constant, forest, branch]))))
    assert found.parameters == {"float32": 4 + 1000, "int64": 3, "float16": 2 * 10}
    assert found.size == 4 * 1004 + 8 * 3 + 2 * 20


def test_half_bytes_are_counted(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])
    found = onnx_file.read(saved(tmp_path, model_of(graph_of(tensor))))
    assert (found.parameters, found.size) == ({"int4": 3}, 2)


def test_no_way_to_a_tensor_is_left_out() -> None:
    """Of all messages in ONNX's own description, those that lead to a tensor are followed, and no other."""
    messages = DESCRIPTOR.message_types_by_name
    leading = {"TensorProto"}
    while True:
        more = {
            name
            for name, message in messages.items()
            if any(field.message_type and field.message_type.name in leading for field in message.fields)
        }
        if more <= leading:
            break
        leading |= more
    for name in leading - {"TensorProto"}:
        ways = {
            field.number: field.message_type.name
            for field in messages[name].fields
            if field.message_type and field.message_type.name in leading
        }
        assert ways.items() <= onnx_file.PARTS[name].items(), name


def test_every_dtype_has_its_name_and_size() -> None:
    assert set(onnx_file.DTYPES) == set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    for number, (name, bits) in onnx_file.DTYPES.items():
        if bits >= 8 and name in np.sctypeDict:
            assert np.dtype(name).itemsize * 8 == bits, number


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "sparse", "function", "training"])
@pytest.mark.parametrize("location", ["../secret.bin", "/secret.bin", "a/../../secret.bin", "*/_ORT_MEM_ADDR_/*", "\0"])
def test_data_outside_the_models_folder_is_refused(tmp_path: Path, place: str, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    if location == "/secret.bin":
        location = str(tmp_path / "secret.bin")
    path = saved(folder, _hidden(place, outside(location)))
    with pytest.raises(LoadFailed, match="outside its folder"):
        load(path)


def _hidden(place: str, tensor: TensorProto) -> onnx.ModelProto:
    """A model that keeps `tensor` in some place."""
    plain = numpy_helper.from_array(WEIGHTS, "w")
    if place == "initializer":
        return model_of(graph_of(tensor))
    if place == "constant":
        return model_of(graph_of(nodes=[helper.make_node("Constant", [], ["w"], value=tensor)]))
    if place == "branch":
        return model_of(graph_of(plain, nodes=[helper.make_node("If", ["x"], ["i"], then_branch=graph_of(tensor))]))
    model = model_of(graph_of(plain))
    if place == "sparse":
        model.graph.sparse_initializer.add(values=tensor, dims=[4])
    elif place == "function":
        model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        model.training_info.add(initialization=graph_of(tensor))
    return model


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to("../secret.bin")
    with pytest.raises(LoadFailed, match="outside its folder"):
        load(saved(folder, model_of(graph_of(outside("weights.bin")))))


def test_data_beside_the_model_is_used(tmp_path: Path) -> None:
    path = saved(tmp_path, model_of(graph_of(outside("weights.bin"))))
    with pytest.raises(LoadFailed, match="no such file"):
        load(path)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    assert load(path).info["bytes"] == 16


def load(path: Path) -> Any:
    model: Any = OnnxRuntime().open(parse(str(path))[1])
    model.load(LoadContext())
    return model


@pytest.fixture(scope="module")
def valid() -> bytes:
    """A file with something of everything in it."""
    model = _hidden("function", numpy_helper.from_array(WEIGHTS, "w"))
    model.graph.node.append(helper.make_node("Any", [], ["f"], values=[0.5] * 9, ids=[1, 300], names=["a", "b"]))
    helper.set_model_props(model, {"title": "t"})
    return model.SerializeToString()


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], None]:
    path = tmp_path_factory.mktemp("reads") / "model.onnx"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(LoadFailed):
            onnx_file.read(path)

    return read


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(
    data: st.DataObject, valid: bytes, reads: Callable[[bytes], None]
) -> None:
    start = data.draw(st.integers(0, len(valid)))
    length = data.draw(st.integers(0, 8))
    reads(valid[:start] + data.draw(st.binary(max_size=8)) + valid[start + length :])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_and_nothing_else(data: bytes, reads: Callable[[bytes], None]) -> None:
    reads(data)


def test_every_cut_of_a_file_is_refused_or_read(valid: bytes, reads: Callable[[bytes], None]) -> None:
    for length in range(len(valid)):
        reads(valid[:length])
