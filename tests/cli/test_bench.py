"""`hansang bench`: that it measures what it says; how fast is not for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KEY, Running
from terminal import typed

FAST = ("--seconds", "0.2", "--concurrency", "2")


def test_it_measures_a_server(serve: Callable[..., Running], and_gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_API_KEY", KEY)
    server = serve(and_gate, key=KEY)
    answer = typed("bench", "and", "--url", server.url, "--json", *FAST)
    assert answer.status == 0, answer.err
    told = json.loads(answer.out)
    assert told["errors"] == {}
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert told["requests_per_second"] == pytest.approx(told["requests"] / told["seconds"], rel=0.1)
    metrics = server.client.get("/metrics").text
    (counted,) = [line for line in metrics.splitlines() if line.startswith("hansang_model_calls_total{")]
    assert float(counted.split()[-1]) >= told["requests"]


def test_it_starts_a_server_for_a_source(and_gate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = typed("bench", and_gate, "--rows", "[[1, 1], [0, 1]]", *FAST)
    assert answer.status == 0, answer.err
    assert "and: 2 callers for 0." in answer.out
    assert "  errors      none" in answer.out


def test_rows_that_do_not_fit_are_told_before_anything_is_measured(
    serve: Callable[..., Running], and_gate: str
) -> None:
    answer = typed("bench", "and", "--url", serve(and_gate).url, "--rows", '[["a", 1]]', *FAST)
    assert answer.status == 1
    assert "error: instances[0].left: expected float64, got string 'a'" in answer.err


def test_an_unknown_model_is_told_the_near_ones(serve: Callable[..., Running], and_gate: str) -> None:
    answer = typed("bench", "adn", "--url", serve(and_gate).url, *FAST)
    assert answer.err == "error: The model 'adn' does not exist here.\nhint: Did you mean and?\n"
