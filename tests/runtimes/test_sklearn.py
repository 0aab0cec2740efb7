"""scikit-learn models saved with skops: what they take and give, and what is never opened."""

from __future__ import annotations

import pickle
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from conftest import Running
from hansang.core.errors import InvalidInput, LoadFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import parse
from hansang.runtimes.sklearn import SklearnRuntime
from hansang.scheduling.executors import answer
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
NAMES = np.array(["no", "no", "yes", "yes"])
DOUBLE = ROWS[:, 0] * 2


def save(folder: Path, model: Any) -> Path:
    path = folder / "model.skops"
    skops.io.dump(model, path)
    return path


def load(folder: Path, saved: Any) -> Model:
    model = SklearnRuntime().open(parse(str(save(folder, saved)))[1])
    assert isinstance(model, Model)
    model.load(LoadContext())
    return model


def signature(model: Model) -> str:
    assert model.signature is not None
    return model.signature.describe()


def ask(model: Model, *requests: dict[str, Any]) -> list[Any]:
    calls = [
        Call(Table(columns, len(next(iter(columns.values())))), CallContext("test", time.monotonic() + 60))
        for columns in requests
    ]
    return [
        {name: np.asarray(column).tolist() for name, column in result.columns.items()}
        if isinstance(result, Table)
        else result
        for result in answer(model, calls)
    ]


@pytest.mark.parametrize("labels", [NAMES, [0, 0, 1, 1]])
def test_it_keeps_the_contract(tmp_path: Path, labels: Any) -> None:
    model = SklearnRuntime().open(parse(str(save(tmp_path, LogisticRegression().fit(ROWS, labels))))[1])
    requests = [Table({"features": rows}, len(rows)) for rows in ([[0.0, 1.0], [1.0, 0.0]], [[3.0, 0.0]])]
    check_runtime(model, requests, wrong=Table({"features": [[1.0]]}, 1))


# Over HTTP


def test_a_classifier_answers_label_and_probabilities(serve: Callable[..., Running], tmp_path: Path) -> None:
    model = LogisticRegression().fit(ROWS, NAMES)
    server = serve(f"clf={save(tmp_path, model)}")
    predictions = server.predict("clf", [0, 1], [3, 0])["predictions"]
    assert [row["label"] for row in predictions] == ["no", "yes"]
    assert np.allclose([row["probabilities"] for row in predictions], model.predict_proba(ROWS[[0, 3]]))
    assert server.predict("clf", [0])["error"]["code"] == "invalid_input"


def test_a_regressor_answers_bare_numbers(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(f"reg={save(tmp_path, LinearRegression().fit(ROWS, DOUBLE))}")
    assert server.predict("reg", [5, 0], [1, 1])["predictions"] == pytest.approx([10, 2])


def test_a_text_model_takes_a_string_for_each_row(serve: Callable[..., Running], tmp_path: Path) -> None:
    model = make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(["good film", "bad film"], ["+", "-"])
    predictions = serve(f"mood={save(tmp_path, model)}").predict("mood", "good", "so bad")["predictions"]
    assert [row["label"] for row in predictions] == ["+", "-"]


# Signatures


def test_named_columns_come_by_name_and_without_warnings(serve: Callable[..., Running], tmp_path: Path) -> None:
    model = LinearRegression().fit(ROWS, DOUBLE)
    model.feature_names_in_ = np.array(["size (m²)", "rooms"], dtype=object)
    server = serve(f"price={save(tmp_path, model)}")
    answers = server.predict("price", {"size (m²)": 5, "rooms": 0}), server.predict("price", [5, 0])
    assert [answer["predictions"] for answer in answers] == [pytest.approx([10])] * 2


@pytest.mark.parametrize(
    ("model", "described"),
    [
        (LogisticRegression().fit(ROWS, [0, 0, 1, 1]), "-> (label: int64: 0 or 1, probabilities: float64[2])"),
        (SVC().fit(ROWS, NAMES), "-> (label: string: 'no' or 'yes')"),
        (LinearRegression().fit(ROWS, ROWS), "-> (value: float64[2])"),
        (KMeans(2, n_init=1).fit(ROWS), "-> (cluster: int32)"),
        (PCA(1).fit(ROWS), "-> (values: float64[1])"),
        (MultiOutputClassifier(LogisticRegression()).fit(ROWS, ROWS > 0.5), "-> (label: bool[2])"),
        (GridSearchCV(LinearRegression(), {"fit_intercept": [True]}, cv=2).fit(ROWS, DOUBLE), "-> (value: float64)"),
        (
            MLPRegressor(hidden_layer_sizes=(3,), solver="sgd", max_iter=1, tol=1e9, n_iter_no_change=1),
            "-> (value: float64)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_outputs_are_those_of_the_kind_of_model(tmp_path: Path, model: Any, described: str) -> None:
    if isinstance(model, MLPRegressor):
        model.fit(ROWS, DOUBLE)
    loaded = load(tmp_path, model)
    assert signature(loaded) == f"(features: float64[2]) {described}"
    expected = model.predict(ROWS) if hasattr(model, "predict") else model.transform(ROWS)
    first = next(iter(ask(loaded, {"features": ROWS.tolist()})[0].values()))
    assert first == expected.tolist()


def columns_of_all_kinds() -> Any:
    """Fitted as pandas fits it: names known, columns chosen by name."""
    table = np.array([[20, "Seoul", "good"], [60, "Busan", "bad"], [30, "Seoul", "bad"], [70, "Jeju", "good"]], object)
    places = {"age": 0, "city": 1, "note": 2}
    parts = ColumnTransformer(
        [
            ("number", StandardScaler(), [places["age"]]),
            ("city", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), [places["city"]]),
            ("words", CountVectorizer(), places["note"]),
        ]
    )
    model = make_pipeline(parts, LogisticRegression()).fit(table, ["young", "old", "young", "old"])
    parts.feature_names_in_ = np.array(list(places), dtype=object)
    by_name = {"number": ["age"], "city": ["city"], "words": "note"}
    parts.transformers_ = [(name, part, by_name.get(name, [])) for name, part, _ in parts.transformers_]
    return model


def test_columns_may_be_numbers_categories_and_texts(tmp_path: Path) -> None:
    model = load(tmp_path, columns_of_all_kinds())
    assert signature(model).startswith("(age: float64, city: string: 'Busan' or 'Jeju' or 'Seoul', note: string) -> ")
    (answered,) = ask(model, {"age": [25.0, 65.0], "city": ["Seoul", "Busan"], "note": ["good", "so bad"]})
    assert answered["label"] == ["young", "old"]


def test_a_column_that_takes_any_category_has_no_choices(tmp_path: Path) -> None:
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(encoder, LogisticRegression()).fit([["a", "x"], ["b", "y"]], [0, 1])
    assert signature(load(tmp_path, model)).startswith("(x0: string, x1: string) -> ")


def test_a_model_that_does_not_say_what_it_takes_is_untyped(tmp_path: Path) -> None:
    inner = make_pipeline(HashingVectorizer(n_features=16, alternate_sign=False), MultinomialNB())
    model = load(tmp_path, VotingClassifier([("only", inner)]).fit(["good", "bad"], ["+", "-"]))
    assert model.signature is None
    assert ask(model, {"": ["good", "bad"]}) == [{"label": ["+", "-"]}]


def test_callers_share_a_batch_and_get_their_own_rows(tmp_path: Path) -> None:
    model = load(tmp_path, LinearRegression().fit(ROWS, DOUBLE))
    answers = ask(model, {"features": [[1, 0], [2, 0]]}, {"features": [[3, 0]]})
    assert [answer["value"] for answer in answers] == [pytest.approx([2, 4]), pytest.approx([6])]


def test_what_the_model_refuses_harms_its_caller_alone(tmp_path: Path) -> None:
    model = load(tmp_path, make_pipeline(OneHotEncoder(), LogisticRegression()).fit([["a"], ["b"]], [0, 1]))
    bad, good = ask(model, {"x0": ["zebra"]}, {"x0": ["b"]})
    assert isinstance(bad, InvalidInput)
    assert "zebra" in bad.message
    assert good["label"] == [1]


def test_inspect_tells_what_the_file_holds(tmp_path: Path) -> None:
    info = load(tmp_path, LogisticRegression().fit(ROWS, NAMES)).info
    assert (info["format"], info["estimator"], info["labels"]) == ("skops", "LogisticRegression", ["no", "yes"])
    assert info["parameters"]["float64"] == 3


def test_parallel_parts_are_held_to_the_threads_given(tmp_path: Path) -> None:
    search = GridSearchCV(LinearRegression(n_jobs=8), {"fit_intercept": [True]}, cv=2).fit(ROWS, DOUBLE)
    model: Any = load(tmp_path, search)
    assert model._estimator.best_estimator_.n_jobs == 1


# What is refused


def refusal(path: Path) -> str:
    model: Any = SklearnRuntime().open(parse(str(path))[1])
    with pytest.raises(LoadFailed) as failed:
        model.load(LoadContext())
    assert str(path) in failed.value.message
    assert failed.value.hint
    return f"{failed.value.message} {failed.value.hint}"


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_under_the_name_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    assert "it is a pickle" in refusal(path)
    joblib = tmp_path / "zip.skops"
    with zipfile.ZipFile(joblib, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Attack(tmp_path / "attacked")))
    assert "not one that skops wrote" in refusal(joblib)
    assert not (tmp_path / "attacked").exists()


def test_a_pickle_among_a_skops_files_arrays_is_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path, LinearRegression().fit(ROWS, DOUBLE))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    array = next(name for name in members if name.endswith(".npy"))
    attack = np.array([Attack(tmp_path / "attacked")], dtype=object)
    with (tmp_path / "evil.npy").open("wb") as file:
        np.save(file, attack, allow_pickle=True)
    members[array] = (tmp_path / "evil.npy").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert "ValueError" in refusal(path)
    assert not (tmp_path / "attacked").exists()


def double(rows: Any) -> Any:
    return rows * 2


def test_types_not_known_to_be_safe_are_listed(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer

    path = save(tmp_path, make_pipeline(FunctionTransformer(double), LinearRegression()).fit(ROWS, DOUBLE))
    assert f"{__name__}.double" in refusal(path)
    forest = refusal(save(tmp_path, RandomForestClassifier(2).fit(ROWS, NAMES)))
    assert "sklearn.tree._tree.Tree" in forest
    assert "ONNX" in forest


@pytest.mark.parametrize("kind", [CountVectorizer, TfidfVectorizer, HashingVectorizer])
def test_a_model_that_reads_files_at_a_callers_word_is_refused(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "a.txt").write_text("word")
    model = make_pipeline(kind(input="filename"), StandardScaler(with_mean=False), LinearRegression())
    path = save(tmp_path, model.fit([str(tmp_path / "a.txt")] * 2, [0, 1]))
    assert "input='filename'" in refusal(path)


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (LogisticRegression(), "not fitted"),
        ({"a": 1}, "holds a dict"),
        (DBSCAN().fit(ROWS), "no predict"),
    ],
)
def test_what_cannot_answer_is_told(tmp_path: Path, saved: Any, told: str) -> None:
    assert told in refusal(save(tmp_path, saved))


@pytest.mark.parametrize(("data", "told"), [(b"", "empty"), (b"{}", "JSON"), (b"PK\x03\x04cut", "cut off")])
def test_another_file_under_the_name_is_told_for_what_it_is(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(data)
    assert told in refusal(path)


def test_missing_packages_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, LinearRegression().fit(ROWS, DOUBLE))
    for name in list(sys.modules):
        if name.partition(".")[0] == "skops":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skops", None)
    assert 'pip install "hansang[ml]"' in refusal(path)
