"""Numbers that add up, in words that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hansang.core.errors import InvalidInput
from hansang.scheduling.batcher import QueueLimits
from hansang.usage.metrics import SECONDS, Histogram, Metrics, ModelMetrics
from house import STREAMS, Counting, House, Lists, Raw, house, wait_for


def parsed(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def value(family: Metric, name: str, **labels: str) -> float:
    (sample,) = [
        sample for sample in family.samples if sample.name == name and labels.items() <= dict(sample.labels).items()
    ]
    return float(sample.value)


# ---- histograms ----


@given(st.lists(st.floats(0, 1000), max_size=200))
def test_buckets_are_cumulative_and_lose_nobody(seconds: list[float]) -> None:
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    rows = histogram.buckets()
    assert [bound for bound, _ in rows] == [*(str(bound) for bound in SECONDS), "+Inf"]
    for bound, count in rows:
        assert count == sum(one <= float(bound) for one in seconds)
    assert histogram.total == pytest.approx(sum(seconds))


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram()
    histogram.add(0.001)
    assert dict(histogram.buckets())["0.001"] == 1
    assert dict(histogram.buckets())["0.0005"] == 0


def test_time_waiting_and_time_computing_are_apart_and_what_never_began_computed_nothing() -> None:
    model = ModelMetrics()
    model.record("ok", 3, 0.2, 0.02)
    model.record("deadline", 1, 5.0, None)
    assert model.outcomes == {"ok": 1, "deadline": 1}
    assert model.rows == 4
    assert (model.queue.total, model.compute.total) == (5.2, 0.02)
    assert (sum(model.queue.counts), sum(model.compute.counts)) == (2, 1)


# ---- exposition ----


def test_an_empty_server_has_an_exposition_that_parses() -> None:
    families = parsed(Metrics())
    assert families["hansang_http_request_seconds"].samples == []
    assert families["process_cpu_seconds"].samples


def test_what_is_recorded_is_exposed() -> None:
    metrics = Metrics()
    metrics.request("/lists/{model}", 200, 0.003)
    metrics.request("/lists/{model}", 200, 0.3)
    metrics.request("/lists/{model}", 503, 0.0)
    metrics.model("iris", "1").record("ok", 5, 0.001, 0.002)
    metrics.model("iris", "1").record("error", 1, 0.001, 0.002)
    metrics.model("iris", "2").record("ok", 7, 0.001, 0.002)
    metrics.queued = lambda: [("iris", "1", 3, 2)]
    families = parsed(metrics)
    http = families["hansang_http_request_seconds"]
    name = "hansang_http_request_seconds"
    assert value(http, f"{name}_count", route="/lists/{model}", status="200") == 2
    assert value(http, f"{name}_sum", route="/lists/{model}", status="200") == pytest.approx(0.303)
    assert value(http, f"{name}_bucket", route="/lists/{model}", status="200", le="0.005") == 1
    assert value(http, f"{name}_count", route="/lists/{model}", status="503") == 1
    calls = families["hansang_model_calls"]
    assert value(calls, "hansang_model_calls_total", model="iris", version="1", outcome="error") == 1
    assert value(families["hansang_model_rows"], "hansang_model_rows_total", model="iris", version="2") == 7
    assert value(families["hansang_model_compute_seconds"], "hansang_model_compute_seconds_count", version="1") == 2
    assert value(families["hansang_model_queue_depth"], "hansang_model_queue_depth", model="iris") == 3
    assert value(families["hansang_model_running"], "hansang_model_running", model="iris") == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(100, 599))
def test_labels_of_any_text_survive_the_way_to_prometheus(label: str, status: int) -> None:
    metrics = Metrics()
    metrics.request(label, status, 0.1)
    samples = parsed(metrics)["hansang_http_request_seconds"].samples
    assert {sample.labels["route"] for sample in samples} == {label}
    assert {sample.labels["status"] for sample in samples} == {str(status)}


# ---- a whole server ----


@pytest.fixture(params=[False, True], ids=["ours", "plain uvicorn"])
def served(request: pytest.FixtureRequest) -> Iterator[House]:
    def work(row: object) -> object:
        return InvalidInput("no") if row == "refuse" else 1 // (row != "fail")

    models = {
        "m": Lists(work),
        "held": Lists(held=True),
        "s": Counting(),
        "cut": STREAMS["async"](held=True),
    }
    with house(models, limits=QueueLimits(calls=1), plain=request.param) as one:
        yield one


def test_requests_and_calls_of_a_server_add_up_however_they_end(served: House) -> None:
    for rows, status in [([1, 2], 200), (["refuse"], 400), (["fail"], 500)]:
        assert served.post("/lists/m", rows).status == status
    assert served.post("/lists/held", [1], "x-hansang-timeout: 0.05").status == 504
    assert served.post("/lists/held", [1], "x-hansang-timeout: 0.05").status == 504
    queue = served.registry.find("held").queue
    assert queue is not None
    assert queue.running == 1
    with Raw(served.port) as leaves:
        leaves.send(leaves.request("POST", "/lists/held", body=b"[1]"))
        wait_for(lambda: queue.depth)
        assert served.post("/lists/held", [1]).status == 503
    wait_for(lambda: not queue.depth)
    assert served.post("/stream/s", [1, 2]).status == 200
    served.registry.find("cut").model.gate.once()  # type: ignore[attr-defined]
    with Raw(served.port) as raw:
        raw.send(raw.request("POST", "/stream/cut", body=b"[1, 2]"))
        raw.read_head()
    wait_for(lambda: served.outcomes("cut"))
    assert served.outcomes("m") == {"ok": 1, "error": 2}
    assert served.outcomes("held") == {"deadline": 2, "cancelled": 1, "queue_full": 1}
    assert served.outcomes("s") == {"ok": 1}
    assert served.outcomes("cut") == {"cancelled": 1}
    wait_for(lambda: sum(served.statuses().values()) == 9)
    families = {family.name: family for family in text_string_to_metric_families(served.get("/metrics").body.decode())}
    calls = families["hansang_model_calls"]
    assert sum(sample.value for sample in calls.samples) == 9
    assert value(families["hansang_model_running"], "hansang_model_running", model="held") == 1
    compute = families["hansang_model_compute_seconds"]
    assert value(compute, "hansang_model_compute_seconds_count", model="m") == 3
    assert value(compute, "hansang_model_compute_seconds_count", model="held") == 1, "one of four ever began"


def test_a_call_that_fails_before_its_model_is_found_is_nobody_s(served: House) -> None:
    for path, body in (("/lists/nobody", [1]), ("/nowhere", [1])):
        served.post(path, body)
    wait_for(lambda: sum(served.statuses().values()) == 2)
    assert served.metrics.models == {}
