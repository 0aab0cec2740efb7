"""scikit-learn models saved with skops (`skops.io.dump(model, "clf.skops")`). Pickles are never opened.

What a row is: a model fitted on named columns takes them by name (or as a list in their order), one fitted on an
array takes a list of numbers, a text model takes a string. Columns whose categories are text take strings.

What an answer is: a regressor gives its `value`, a clusterer its `cluster`, a transformer its `values`: one output, so
predictions are bare. A classifier gives its `label` alone, as KServe's scikit-learn server does, if that is all it
knows; if it has `predict_proba`, an object of `label` and `probabilities` (in the order of its classes, which stand in
the output's description). Fitting is not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from hansang.core.artifact import card_beside, first_bytes, looks_like
from hansang.core.errors import HansangError, InvalidInput, LoadFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import DTYPES, Field, Signature
from hansang.core.source import Source
from hansang.tasks.tabular import TABULAR, Table, cut, merge

_INSTALL = 'pip install "hansang[ml]"'
_SAVE = 'Save the model with skops.io.dump(model, "model.skops").'
FEATURES = "features"
TEXT = "text"
_MOST_CHOICES = 100
_HARMLESS = [
    "numpy.dtype",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
]
"""What imputers, searches, networks and voters keep besides the types that skops knows to be safe: plain values, which
can do no more than an estimator with chosen attributes. Trees are not among them: their memory is not checked.
"""


class SklearnRuntime:
    """Claims `*.skops`."""

    name = "sklearn"
    sources = "a scikit-learn model saved with skops (*.skops)"

    def claims(self, source: Source) -> bool:
        return source.suffix == ".skops"

    def open(self, source: Source) -> Model:
        return SklearnModel(source.file())


class SklearnModel(Model):
    """A fitted estimator or pipeline."""

    task = TABULAR
    max_batch_size = 256

    def __init__(self, path: Path, estimator: Any = None) -> None:
        """`estimator`: what was made of the file, where it was opened already."""
        self.path = path
        self._given = estimator
        self._estimator: Any = None
        self._methods: dict[str, Callable[[Any], Any]] = {}

    def load(self, context: LoadContext) -> None:
        unpickled = self._given is not None
        parameters, size = ({}, self.path.stat().st_size) if unpickled else _check_file(self.path)
        self._estimator = estimator = self._given if unpickled else open_skops(self.path)
        self._methods = _methods(self.path, estimator)
        self._limit = _ThreadLimit(context.threads)
        _check_parts(self.path, estimator, context.threads)
        inputs, values = _inputs(estimator)
        _forget_names(estimator)
        self._names = [field.name for field in inputs]
        self._form = "as given" if self._names in ([], [TEXT]) else "array" if inputs[0].shape else "columns"
        self._dtype = float if all(field.dtype == "float64" for field in inputs) else object
        if inputs:
            self.signature = Signature(tuple(inputs), self._outputs(dict(zip(self._names, values, strict=True))))
        self.info = {
            "format": "pickle" if unpickled else "skops",
            "parameters": parameters,
            "bytes": size,
            "file": str(self.path),
            "estimator": type(estimator).__name__,
            "labels": _labels(estimator),
            **card_beside(self.path),
        }

    def predict(self, calls: Sequence[Call]) -> Sequence[Table | HansangError]:
        self._limit()
        table = merge([call.request for call in calls])
        answer = Table(self._answer(table.columns), table.rows)
        stops = accumulate(call.request.rows for call in calls)
        return [cut(answer, stop - call.request.rows, stop) for call, stop in zip(calls, stops, strict=True)]

    def _answer(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        try:
            rows = self._rows(columns)
            return {name: _plain(method(rows)) for name, method in self._methods.items()}
        except ValueError as exc:
            reason = (str(exc).strip().splitlines() or ["a wrong value"])[0]
            raise InvalidInput(f"The model refuses this input: {reason}") from None

    def _rows(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """What the estimator takes: texts, or an array of rows."""
        import numpy

        if self._form == "as given":
            return next(iter(columns.values()))
        if self._form == "array":
            return numpy.array(columns[FEATURES], dtype=float)
        rows = numpy.empty((len(columns[self._names[0]]), len(self._names)), dtype=self._dtype)
        for place, name in enumerate(self._names):
            rows[:, place] = columns[name]
        return rows

    def _outputs(self, row: dict[str, Any]) -> tuple[Field, ...]:
        """What it gives, seen by asking it once."""
        try:
            answer = self._answer({name: [value] for name, value in row.items()})
        except (InvalidInput, ImportError, AttributeError, TypeError) as exc:
            raise LoadFailed(
                f"{self.path} holds a {type(self._estimator).__name__} that cannot answer: {exc}",
                hint="Check that predict works on one row, as an array, in the program that saves it.",
            ) from exc
        labels = _labels(self._estimator)
        return tuple(_output(name, value, labels) for name, value in answer.items())

    def unload(self) -> None:
        self._estimator, self._methods = None, {}


class _ThreadLimit:
    """Holds numerical libraries to so many threads; the limit belongs to the thread that asks for it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._done = threading.local()

    def __call__(self) -> None:
        if not getattr(self._done, "limits", None):
            from threadpoolctl import threadpool_limits

            self._done.limits = threadpool_limits(self._threads)


def _check_file(path: Path) -> tuple[dict[str, int], int]:
    """Raise LoadFailed unless it is a skops file; count the numbers in its arrays, by dtype, and their bytes."""
    head = first_bytes(path)
    if not head.startswith(b"PK"):
        what, hint = looks_like(head)
        raise LoadFailed(f"{path} is not a skops file: it is {what}.", hint=f"{hint} {_SAVE}")
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
            if "schema.json" not in names:
                raise LoadFailed(f"{path} is a ZIP archive, but not one that skops wrote: no schema.json.", hint=_SAVE)
            return _count(archive, [name for name in names if name.endswith(".npy")])
    except (BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise LoadFailed(f"{path} is cut off or damaged: {exc}.", hint="Was it copied to its end?") from None


def _count(archive: ZipFile, names: Sequence[str]) -> tuple[dict[str, int], int]:
    from numpy.lib import format as npy

    parameters: dict[str, int] = {}
    size = 0
    for name in names:
        with archive.open(name) as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
        kind = "records" if dtype.names else "string" if dtype.kind in "US" else dtype.name
        parameters[kind] = parameters.get(kind, 0) + prod(shape)
        size += prod(shape) * dtype.itemsize
    return parameters, size


def open_skops(path: Path) -> Any:
    """The object in a skops file of types that skops knows to be safe, and of no other."""
    try:
        import sklearn
        import skops.io
    except ImportError as exc:
        raise LoadFailed(f"{path} needs scikit-learn and skops: {exc}.", hint=f"Install them: {_INSTALL}") from None
    try:
        if untrusted := sorted(set(skops.io.get_untrusted_types(file=path)) - set(_HARMLESS)):
            raise LoadFailed(
                f"{path} holds types that skops does not know to be safe: {', '.join(untrusted)}. Making them from a "
                "file could run its code, or crash the server.",
                hint="Export the model as ONNX instead, which runs no code: "
                'skl2onnx.to_onnx(model, X[:1], options={"zipmap": False})',
            )
        return skops.io.load(path, trusted=_HARMLESS)
    except LoadFailed:
        raise
    except Exception as exc:
        raise LoadFailed(
            f"{path} cannot be opened by skops with scikit-learn {sklearn.__version__}: {type(exc).__name__}: {exc}",
            hint=f"It may be damaged, or from a newer version. {_SAVE}",
        ) from exc


def _parts(thing: Any) -> Iterator[Any]:
    """Every object that an estimator is made of, itself included."""
    waiting, seen = [thing], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, (str, bytes, int, float, type)):
            continue
        seen.add(id(part))
        if isinstance(part, (list, tuple, set, frozenset)):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif getattr(getattr(part, "dtype", None), "kind", "") == "O":
            waiting.extend(part.flat)
        elif hasattr(part, "__dict__"):
            yield part
            waiting.extend(vars(part).values())


def _check_parts(path: Path, estimator: Any, threads: int) -> None:
    """Refuse what would read files at a caller's word; hold parallel parts to `threads`."""
    for part in _parts(estimator):
        attributes = vars(part)
        if attributes.get("input") in ("filename", "file"):
            raise LoadFailed(
                f"{path} has a {type(part).__name__} with input={attributes['input']!r}: whoever asks the model could "
                "have it read any file of this machine.",
                hint='Fit it with input="content", and send texts.',
            )
        if attributes.get("n_jobs") is not None:
            part.n_jobs = threads


def _forget_names(estimator: Any) -> None:
    """Have every part take columns by their place: rows come as arrays, in the order of the names it was fitted on."""
    for part in _parts(estimator):
        vars(part).pop("feature_names_in_", None)
        places = vars(part).get("_transformer_to_input_indices")
        if places is not None:
            part.transformers_ = [
                (name, transformer, places[name][0] if isinstance(columns, (str, int)) else places[name])
                for name, transformer, columns in part.transformers_
            ]


def _methods(path: Path, estimator: Any) -> dict[str, Callable[[Any], Any]]:
    """What to ask it, by the name of the output."""
    from sklearn import base
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(estimator, base.BaseEstimator):
        raise LoadFailed(f"{path} holds a {type(estimator).__name__}, not a scikit-learn model.", hint=_SAVE)
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise LoadFailed(
            f"{path} holds a {type(estimator).__name__} that is not fitted.", hint="Fit it first."
        ) from None
    if hasattr(estimator, "predict"):
        if base.is_classifier(estimator):
            methods = {"label": estimator.predict}
            several = isinstance(getattr(estimator, "classes_", None), list)
            if hasattr(estimator, "predict_proba") and not several:
                methods["probabilities"] = estimator.predict_proba
            return methods
        name = (
            "cluster" if base.is_clusterer(estimator) else "label" if base.is_outlier_detector(estimator) else "value"
        )
        return {name: estimator.predict}
    if hasattr(estimator, "transform"):
        return {"values": estimator.transform}
    raise LoadFailed(
        f"{path} holds a {type(estimator).__name__}, which cannot answer for new rows: it has no predict.",
        hint="Save a model that has one.",
    )


def _inputs(estimator: Any) -> tuple[list[Field], list[Any]]:
    """Its columns, and a value that each knows; none if it does not say."""
    front = _steps(estimator)[0]
    if _is_text(front):
        return [Field(TEXT, "string")], [TEXT]
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        return [], []
    special = _special_columns(front)
    names = getattr(estimator, "feature_names_in_", None)
    if names is None and not special:
        return [Field(FEATURES, "float64", (width,))], [[0.0] * width]
    names = [str(name) for name in names] if names is not None else [f"x{place}" for place in range(width)]
    columns = [_column(name, special.get(place, ())) for place, name in enumerate(names)]
    return [field for field, _ in columns], [value for _, value in columns]


def _steps(estimator: Any) -> list[Any]:
    """The steps of a pipeline, in order and flat; another estimator is its only step."""
    if hasattr(estimator, "best_estimator_"):
        return _steps(estimator.best_estimator_)
    if hasattr(estimator, "transformer_list"):
        return _steps(estimator.transformer_list[0][1])
    if hasattr(estimator, "steps"):
        return [part for _, step in estimator.steps for part in _steps(step)]
    return [estimator]


def _is_text(step: Any) -> bool:
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    return isinstance(step, (CountVectorizer, HashingVectorizer))


def _special_columns(front: Any) -> dict[int, list[tuple[Any, int]]]:
    """Columns that may be other than numbers: by place, the steps that see each and its place there."""
    if isinstance(getattr(front, "categories_", None), list):
        return {place: [(front, place)] for place in range(len(front.categories_))}
    places = getattr(front, "_transformer_to_input_indices", {})
    return {
        place: [(step, nth) for step in _steps(transformer)]
        for name, transformer, _ in getattr(front, "transformers_", ())
        for nth, place in enumerate(places.get(name, ()))
    }


def _column(name: str, steps: Sequence[tuple[Any, int]]) -> tuple[Field, Any]:
    """A text if a step takes it for one, else a number; and a value. Where no other categories are allowed, choices."""
    dtype, choices = "float64", None
    value: Any = 0.0
    for step, place in steps:
        known = getattr(step, "categories_", getattr(step, "statistics_", ()))
        if _is_text(step) or (place < len(known) and _is_textual(known[place])):
            dtype, value = "string", TEXT
        if hasattr(step, "categories_"):
            categories = known[place].tolist()
            value = categories[0]
            if dtype == "string" and step.handle_unknown == "error" and len(categories) <= _MOST_CHOICES:
                choices = tuple(categories)
            break
    return Field(name, dtype, choices=choices), value


def _is_textual(known: Any) -> bool:
    return isinstance(known, str) or getattr(getattr(known, "dtype", None), "kind", "") in ("O", "U", "S")


def _labels(estimator: Any) -> list[Any] | None:
    """A classifier's classes, in the order of its probabilities."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        return [part.tolist() for part in classes]
    return None if classes is None else list(classes.tolist())


def _output(name: str, value: Any, labels: Sequence[Any] | None) -> Field:
    dtype, shape = ("string", ()) if isinstance(value, list) else (value.dtype.name, value.shape[1:])
    if dtype not in DTYPES:
        return Field(name)
    listed = ", ".join(str(label) for label in labels or ())
    choices = None
    if name == "label" and shape == () and labels and len(labels) <= _MOST_CHOICES and dtype in ("string", "int64"):
        choices = tuple(labels)
    return Field(name, dtype, shape, choices=choices, description=listed if name == "probabilities" else "")


def _plain(value: Any) -> Any:
    """An array of numbers, or a list of anything else."""
    if hasattr(value, "toarray"):
        value = value.toarray()
    return value.tolist() if value.dtype.kind in "OUS" else value
