"""ONNX models, from real files made here: what they take, how rows are joined and split, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from conftest import Running
from hansang.core.errors import ClientGone, InvalidInput, LoadFailed, ModelFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import parse
from hansang.runtimes.onnx import OnnxRuntime
from hansang.scheduling.executors import answer
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime

F, N64, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Port = tuple[str, int, Sequence[Any] | None]
node = helper.make_node


class Maker:
    """Writes a graph as a file in the test's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, nodes: Sequence[NodeProto], inputs: Sequence[Port], outputs: Sequence[Port], **constants: Any
    ) -> Path:
        def port(name: str, dtype: int, shape: Sequence[Any] | None) -> Any:
            return helper.make_tensor_value_info(name, dtype, shape)

        initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(
            nodes, "test", [port(*given) for given in inputs], [port(*given) for given in outputs], initializers
        )
        opset = [helper.make_opsetid("", 18)]
        path = self.folder / f"m{len(list(self.folder.iterdir()))}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())
        return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def load(path: Path, **settings: Any) -> Model:
    model = OnnxRuntime().open(parse(str(path))[1])
    assert isinstance(model, Model)
    for name, value in settings.items():
        setattr(model, name, value)
    model.load(LoadContext())
    return model


def call(**columns: Any) -> Call:
    rows = len(next(iter(columns.values())))
    return Call(Table(columns, rows), CallContext("test", time.monotonic() + 60))


def ask(model: Model, *calls: Call) -> list[Any]:
    """Each caller's columns as lists, or the error in their place. One batch, isolated as the house does it."""
    return [
        {name: np.asarray(column).tolist() for name, column in result.columns.items()}
        if isinstance(result, Table)
        else result
        for result in answer(model, calls)
    ]


def added(make: Maker, shape: Sequence[Any], dtype: int = F) -> Path:
    return make([node("Add", ["a", "b"], ["sum"])], [("a", dtype, shape), ("b", dtype, shape)], [("sum", dtype, shape)])


def same(make: Maker, dtype: int, shape: Sequence[Any]) -> Path:
    return make([node("Identity", ["x"], ["y"])], [("x", dtype, shape)], [("y", dtype, shape)])


@pytest.mark.parametrize("shape", [["N", 2], [1, 2], ["N", "K"]])
def test_it_keeps_the_contract(make: Maker, shape: list[Any]) -> None:
    rows = [Table({"a": [[n, 1.0], [n, 2.0]], "b": [[n, n], [0.0, 0.0]]}, 2) for n in (1.0, 2.0, 3.0)]
    model = OnnxRuntime().open(parse(str(added(make, shape)))[1])
    check_runtime(model, rows, wrong=Table({"a": [[1.0, 2.0, 3.0]], "b": [[1.0]]}, 1))


# Over HTTP


def test_named_scalars_come_as_lists_objects_and_columns(serve: Callable[..., Running], make: Maker) -> None:
    server = serve(f"add={added(make, ['N'])}")
    assert server.predict("add", [1, 2], [0.5, 0.25]) == {"predictions": [3.0, 0.75]}
    assert server.predict("add", {"b": 1, "a": 2}) == {"predictions": [3.0]}
    columns = server.client.post("/v1/models/add:predict", json={"inputs": {"a": [1, 2], "b": [3, 4]}})
    assert columns.json() == {"outputs": [4.0, 6.0]}


def test_a_matrix_goes_in_row_by_row_and_floats_come_back_short(serve: Callable[..., Running], make: Maker) -> None:
    weights = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
    path = make([node("MatMul", ["x", "w"], ["y"])], [("x", F, ["N", 3])], [("y", F, ["N", 2])], w=weights)
    server = serve(f"net={path}")
    assert server.predict("net", [0.1, 0.2, 9], [1, 2, 3]) == {"predictions": [[0.1, 0.2], [1.0, 2.0]]}
    error = server.predict("net", [1, 2])["error"]
    assert error["code"] == "invalid_input"
    assert "float32[3]" in error["message"]


def test_strings_go_in_and_out(serve: Callable[..., Running], make: Maker) -> None:
    server = serve(f"echo={same(make, S, ['N', 1])}")
    assert server.predict("echo", "안녕", "") == {"predictions": ["안녕", ""]}


def test_a_classifier_with_zipmap_answers_label_and_probabilities(serve: Callable[..., Running], make: Maker) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    model = LogisticRegression().fit(rows, ["low", "low", "high", "high"])
    path = make.folder / "zip.onnx"
    path.write_bytes(to_onnx(model, rows).SerializeToString())
    prediction = serve(str(path)).predict("zip", 0, 3)["predictions"]
    assert [row["output_label"] for row in prediction] == ["low", "high"]
    assert prediction[0]["output_probability"]["low"] == pytest.approx(model.predict_proba([[0.0]])[0, 1], abs=1e-5)


def test_a_value_beyond_float32_is_the_callers_fault(serve: Callable[..., Running], make: Maker) -> None:
    server = serve(f"add={added(make, ['N'])}", f"wide={added(make, ['N', 2])}", f"deep={added(make, ['N', 1, 1])}")
    for model, value in (("add", 1e39), ("wide", [1e39, 0]), ("deep", [[1e39]])):
        error = server.predict(model, [value, value])["error"]
        assert (error["code"], "float32" in error["message"]) == ("invalid_input", True)


def test_a_lone_answer_equals_its_place_in_a_batch(serve: Callable[..., Running], make: Maker) -> None:
    server = serve(f"add={added(make, ['N', 4])}")
    rows = [[[n + k for k in range(4)], [n] * 4] for n in range(150)]  # more rows than one batch takes
    together = server.predict("add", *rows)["predictions"]
    assert together == [server.predict("add", row)["predictions"][0] for row in rows]


# Shapes


def test_the_signature_is_the_models_own(make: Maker) -> None:
    path = make(
        [node("Identity", ["x"], ["y"]), node("Identity", ["n"], ["m"])],
        [("x", F, ["N", 3, "width"]), ("n", N64, ["N", 1])],
        [("y", F, ["N", 3, "width"]), ("m", N64, ["N", 1])],
    )
    signature = load(path).signature
    assert signature is not None
    assert signature.describe() == "(x: float32[3, any], n: int64) -> (y: float32[3, any], m: int64)"


@pytest.mark.parametrize("shape", [["N"], ["N", 1], [1], [1, 1], []])
def test_one_number_for_each_row_is_bare(make: Maker, shape: list[Any]) -> None:
    model = load(added(make, shape))
    assert ask(model, call(a=[1.0, 2.0], b=[0.5, 0.5]), call(a=[3.0], b=[0.0])) == [{"sum": [1.5, 2.5]}, {"sum": [3.0]}]


def test_callers_of_several_rows_get_their_own(make: Maker) -> None:
    model = load(added(make, ["N", 2]))
    calls = [call(a=[[n, 0]] * n, b=[[0, n]] * n) for n in (3, 1, 2)]
    assert ask(model, *calls) == [{"sum": [[n, n]] * n} for n in (3, 1, 2)]


def test_a_fixed_batch_of_one_is_run_row_by_row(make: Maker) -> None:
    model = load(added(make, [1, 3]))
    assert model.max_batch_size == 1
    assert ask(model, call(a=[[1, 2, 3], [4, 5, 6]], b=[[1, 1, 1], [0, 0, 0]])) == [{"sum": [[2, 3, 4], [4, 5, 6]]}]


def test_a_set_batch_size_stays(make: Maker) -> None:
    assert load(added(make, [1, 3]), max_batch_size=8).max_batch_size == 8


def test_a_model_without_a_batch_takes_its_whole_input_as_a_row(make: Maker) -> None:
    path = make([node("ReduceSum", ["x"], ["total"], keepdims=0)], [("x", F, [2, 3])], [("total", F, [])])
    model = load(path)
    assert model.signature is not None
    assert model.signature.describe() == "(x: float32[2, 3]) -> (total: float32)"
    assert ask(model, call(x=[[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 1]]])) == [{"total": [21.0, 1.0]}]


def test_an_output_without_a_batch_is_given_to_each_row(make: Maker) -> None:
    path = make([node("ReduceMean", ["x"], ["mean"], keepdims=0)], [("x", F, ["N", 2])], [("mean", F, [])])
    assert ask(load(path), call(x=[[1, 3], [10, 30]])) == [{"mean": [2.0, 20.0]}]


def test_rows_run_one_by_one_stop_when_their_caller_leaves(make: Maker) -> None:
    gone = call(a=[[1.0]], b=[[1.0]])
    gone.context.cancel()
    assert isinstance(ask(load(added(make, [1, 1])), gone)[0], ClientGone)


def test_an_output_that_is_no_batch_after_all_is_the_models_fault(make: Maker) -> None:
    nodes = [node("NonZero", ["x"], ["row"]), node("Transpose", ["row"], ["places"])]
    path = make(nodes, [("x", F, ["N"])], [("places", N64, ["M", "K"])])
    (failed,) = ask(load(path), call(x=[1.0, 0.0, 1.0]))
    assert isinstance(failed, ModelFailed)
    assert "places" in failed.message


def test_open_dimensions_differ_from_caller_to_caller(make: Maker) -> None:
    path = make(
        [node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)],
        [("x", N64, ["N", "K"])],
        [("y", N64, ["N"])],
        axis=np.array([1]),
    )
    model = load(path)
    assert ask(model, call(x=[[1, 2], [3, 4]])) == [{"y": [3, 7]}]
    assert ask(model, call(x=[[1, 2, 3]])) == [{"y": [6]}]


def test_ragged_rows_are_refused_without_harm_to_others(make: Maker) -> None:
    path = make([node("Identity", ["x"], ["y"])], [("x", F, ["N", "K"])], [("y", F, ["N", "K"])])
    ragged, good = ask(load(path), call(x=[[1.0, 2.0], [3.0]]), call(x=[[5.0, 6.0]]))
    assert isinstance(ragged, InvalidInput)
    assert "float32[any]" in ragged.message
    assert good == {"y": [[5.0, 6.0]]}


def test_inputs_must_agree_in_a_shared_dimension(make: Maker) -> None:
    path = added(make, ["N", "words"])
    (refused,) = ask(load(path), call(a=[[1.0, 2.0]], b=[[1.0, 2.0, 3.0]]))
    assert isinstance(refused, InvalidInput)
    assert "'words'" in refused.message
    assert "has 2" in refused.message
    assert "has 3" in refused.message


def test_what_the_model_refuses_harms_its_caller_alone(make: Maker) -> None:
    path = make(
        [node("Gather", ["table", "at"], ["y"])], [("at", N64, ["N"])], [("y", F, ["N"])], table=np.float32([7, 8])
    )
    bad, good = ask(load(path), call(at=[9]), call(at=[1]))
    assert isinstance(bad, InvalidInput)
    assert "idx=9" in bad.message
    assert good == {"y": [8.0]}


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (TensorProto.FLOAT16, [0.5, -2.0]),
        (TensorProto.DOUBLE, [0.1, 1e300]),
        (TensorProto.INT8, [-128, 127]),
        (TensorProto.INT32, [-(2**31), 2**31 - 1]),
        (TensorProto.INT64, [-(2**63), 2**63 - 1]),
        (TensorProto.UINT8, [0, 255]),
        (TensorProto.UINT64, [0, 2**64 - 1]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.STRING, ["a", "한상"]),
    ],
)
def test_every_dtype_goes_through_unchanged(make: Maker, dtype: int, values: list[Any]) -> None:
    assert ask(load(same(make, dtype, ["N"])), call(x=values)) == [{"y": values}]
    assert ask(load(same(make, dtype, ["N", 2])), call(x=[values]), call(x=[values])) == [{"y": [values]}] * 2
    assert ask(load(same(make, dtype, ["N", 1, 2])), call(x=[[values]])) == [{"y": [[values]]}]


def test_arrays_are_taken_as_they_are(make: Maker) -> None:
    model = load(added(make, ["N", 2]))
    rows = np.array([[1, 2], [3, 4]])
    assert ask(model, call(a=rows, b=rows), call(a=rows[:1], b=rows[1:])) == [
        {"sum": [[2, 4], [6, 8]]},
        {"sum": [[4, 6]]},
    ]
    (refused,) = ask(model, call(a=rows, b=np.ones((2, 3))))
    assert isinstance(refused, InvalidInput)
    (refused,) = ask(load(same(make, N64, ["N"])), call(x=np.array([0.5])))
    assert isinstance(refused, InvalidInput)


def test_an_input_of_unknown_rank_takes_any(make: Maker) -> None:
    model = load(make([node("Identity", ["x"], ["y"])], [("x", F, None)], [("y", F, None)]))
    assert model.signature is not None
    assert model.signature.inputs[0].dtype == "json"
    assert ask(model, call(x=[[[1.0]], [[2.0]]])) == [{"y": [[[1.0]], [[2.0]]]}]


# What inspect shows


def test_inspect_tells_what_the_file_holds(make: Maker) -> None:
    path = make(
        [node("Gemm", ["x", "w", "b"], ["y"])],
        [("x", F, ["N", 3])],
        [("y", F, ["N", 2])],
        w=np.zeros((3, 2), np.float32),
        b=np.zeros(2, np.float32),
    )
    info = load(path).info
    assert (info["format"], info["parameters"], info["bytes"]) == ("ONNX", {"float32": 8}, 32)
    assert (info["opset"], info["ir_version"]) == ({"ai.onnx": 18}, 9)


def test_a_card_and_the_models_own_metadata_are_shown(make: Maker) -> None:
    import onnx

    path = same(make, F, ["N"])
    model = onnx.load(path)
    model.producer_name, model.graph.input[0].doc_string = "the test", "a number"
    helper.set_model_props(model, {"title": "Same", "labels": '["a", "b"]', "author": "me"})
    path.write_bytes(model.SerializeToString())
    loaded = load(path)
    assert loaded.signature is not None
    assert loaded.signature.inputs[0].description == "a number"
    assert {key: loaded.info[key] for key in ("producer", "title", "labels", "metadata")} == {
        "producer": "the test",
        "title": "Same",
        "labels": ["a", "b"],
        "metadata": {"author": "me"},
    }
    path.with_name(f"{path.stem}.card.json").write_text('{"title": {"en": "Better", "ko": "더 나은"}, "limits": "all"}')
    info = load(path).info
    assert (info["title"], info["card"]["limits"]) == ("Better", "all")


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(LoadFailed) as failed:
        load(path)
    assert str(path) in failed.value.message
    assert failed.value.hint
    return f"{failed.value.message} {failed.value.hint}"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"hello, this is text", "text"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00\x00\x00\x00\x00\x00", "not an ONNX model"),
    ],
)
def test_another_file_under_the_name_is_told_for_what_it_is(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(data)
    assert told in refusal(path)


def test_a_pickle_under_the_name_is_not_opened(tmp_path: Path) -> None:
    import pickle

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "attacked",)

    path = tmp_path / "evil.onnx"
    path.write_bytes(pickle.dumps(Attack()))
    assert "pickle" in refusal(path)
    assert not (tmp_path / "attacked").exists()


def test_a_cut_off_file_is_told(make: Maker) -> None:
    path = added(make, ["N"])
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut off" in refusal(path)


def test_what_onnxruntime_cannot_run_is_told_without_its_noise(make: Maker) -> None:
    message = refusal(make([node("NoSuchOp", ["x"], ["y"])], [("x", F, ["N"])], [("y", F, ["N"])]))
    assert "NoSuchOp" in message
    assert "ONNXRuntimeError" not in message


def test_types_that_rows_cannot_say_are_told(make: Maker) -> None:
    assert "tensor(bfloat16)" in refusal(same(make, TensorProto.BFLOAT16, ["N"]))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="no file"):
        load(tmp_path / "none.onnx")
