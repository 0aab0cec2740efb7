"""`hansang.load`: a model in this process answers as a server of it does."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hansang
from conftest import Running
from hansang.core.errors import BadRequest, InvalidInput, LoadFailed, ModelFailed


def and_(left: int, right: int) -> int:
    return int(left and right)


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def broken(x: int) -> int:
    raise RuntimeError("no")


def test_rows_give_a_list_and_a_row_by_name_gives_its_one_answer(and_gate: str) -> None:
    with hansang.load(and_gate) as model:
        assert model.name == "and"
        assert model.signature is not None
        assert model.predict([[1, 1], [0, 1]]) == [1, 0]
        assert model.predict(np.array([[1.0, 1.0]])) == [1]
        assert model.predict(left=1, right=1) == 1
        assert repr(model) == "<and: (left: float64, right: float64) -> (result: int64: 0 or 1)>"


@pytest.mark.parametrize("rows", [[[1, 1]], [[1]], [["a", 1]], [], [{"left": 1, "rigth": 1}], [[float("nan"), 1]]])
def test_it_answers_and_refuses_as_the_server_does(
    serve: Callable[..., Running], and_gate: str, rows: list[Any]
) -> None:
    client = hansang.Client(serve(and_gate).url)
    told = []
    with hansang.load(and_gate) as model:
        for predict in (model.predict, lambda rows: client.predict("and", rows)):
            try:
                told.append(predict(rows))
            except hansang.HansangError as exc:
                told.append((type(exc), exc.message, exc.hint, exc.status))
    assert told[0] == told[1]


def test_a_function_def_or_async_is_a_model() -> None:
    with hansang.load(and_) as model:
        assert model.predict(left=1, right=1) == 1
        with pytest.raises(InvalidInput):
            model.predict(left="x", right=1)
    with hansang.load(later) as model:
        assert model.predict([1, 2]) == [2, 3]


def test_it_works_where_an_event_loop_runs_as_in_a_notebook(and_gate: str) -> None:
    async def cell() -> Any:
        with hansang.load(and_gate) as model:
            return model.predict(left=1, right=1)

    assert asyncio.run(cell()) == 1


def test_what_the_model_raises_is_told_like_on_a_server(caplog: pytest.LogCaptureFixture) -> None:
    with hansang.load(broken) as model, pytest.raises(ModelFailed, match="The model failed on this request"):
        model.predict(x=1)
    assert "RuntimeError: no" in caplog.text


def test_a_sample_types_an_untyped_model(tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text("def add(a, b):\n    return a + b\n")
    source = f"{tmp_path}/loose.py:add"
    with hansang.load(source) as model:
        assert model.signature is None
        assert model.predict([[1, 2]]) == [3]
    with hansang.load(source, sample=[1, 2]) as model:
        assert model.signature is not None
        with pytest.raises(InvalidInput):
            model.predict([["one", 2]])


def test_a_traceback_shows_the_hint() -> None:
    with pytest.raises(LoadFailed) as caught:
        hansang.load("gone.py:f")
    assert f"hint: {caught.value.hint}" in "".join(traceback.format_exception(caught.value))


def test_what_cannot_be_loaded_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(LoadFailed, match="weights"):
        hansang.load(str(tmp_path / "broken.json"))
    with pytest.raises(LoadFailed, match="There is no file"):
        hansang.load("gone.json")
    assert threading.active_count() == before


def test_a_web_application_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    with pytest.raises(LoadFailed, match="web is a web application, not a model") as caught:
        hansang.load(f"{tmp_path}/web.py:app")
    assert "hansang serve" in str(caught.value.hint)


def test_a_model_that_nobody_holds_any_more_is_unloaded(and_gate: str) -> None:
    before = threading.active_count()
    model = hansang.load(and_gate)
    assert threading.active_count() > before
    del model
    gc.collect()
    assert threading.active_count() == before


def test_settings_and_the_servers_key_do_not_reach_it(and_gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_TIMEOUT", "0.000001")
    monkeypatch.setenv("HANSANG_API_KEY", "x" * 40)
    with hansang.load(and_gate) as model:
        assert model.predict(left=1, right=1) == 1


def test_a_sample_is_never_ignored(and_gate: str) -> None:
    with hansang.load(Path(and_gate), sample=[1, 1]) as model:
        assert model.predict([[1, 1]]) == [1]
    with pytest.raises(BadRequest, match="sample"):
        hansang.load(lambda x: x, sample=1)
