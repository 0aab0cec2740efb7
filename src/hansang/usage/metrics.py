"""What happened, in numbers, for Prometheus.

The hot path only adds to plain counters and bucket lists on the event loop's thread, which costs a fraction of a
labelled prometheus-client child; the library is imported, and the numbers put into its words, when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Outcome = Literal["ok", "error", "cancelled", "deadline", "queue_full"]

SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Histogram:
    """Counts of observations up to each bound of SECONDS, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        rows, running = [], 0
        for bound, count in zip((*SECONDS, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return rows


class ModelMetrics:
    """One model's calls: outcomes, rows, time waiting and time computing apart."""

    __slots__ = ("compute", "outcomes", "queue", "rows")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.rows = 0
        self.queue = Histogram()
        self.compute = Histogram()

    def record(self, outcome: Outcome, rows: int, queue: float, compute: float | None) -> None:
        """One call's end, `queue` and `compute` in seconds. `compute` is None when the model never began."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.rows += rows
        self.queue.add(queue)
        if compute is not None:
            self.compute.add(compute)


class Metrics:
    """One server's numbers. Touched on the event loop's thread only."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelMetrics] = {}
        self._requests: dict[tuple[str, int], Histogram] = {}
        self.queued: Callable[[], Iterable[tuple[str, str, int, int]]] = tuple
        """Asked at each scrape: (model, version, calls waiting, batches running)."""

    def model(self, name: str, version: str) -> ModelMetrics:
        return self.models.setdefault((name, version), ModelMetrics())

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request's end."""
        histogram = self._requests.get((route, status))
        if histogram is None:
            histogram = self._requests[route, status] = Histogram()
        histogram.add(seconds)

    def exposition(self) -> bytes:
        """The text that `/metrics` answers."""
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        return bytes(generate_latest(registry))

    def collect(self) -> Iterator[Metric]:
        """prometheus-client's collector protocol."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        http = HistogramMetricFamily(
            "hansang_http_request_seconds", "Requests, from the last byte of the head", labels=["route", "status"]
        )
        for (route, status), histogram in self._requests.items():
            http.add_metric([route, str(status)], histogram.buckets(), histogram.total)
        yield http
        labels = ["model", "version"]
        calls = CounterMetricFamily("hansang_model_calls", "Calls by how they ended", labels=[*labels, "outcome"])
        rows = CounterMetricFamily("hansang_model_rows", "Rows of all calls", labels=labels)
        queue = HistogramMetricFamily("hansang_model_queue_seconds", "Time until the model began", labels=labels)
        compute = HistogramMetricFamily("hansang_model_compute_seconds", "Time the model took", labels=labels)
        for key, model in self.models.items():
            for outcome, count in model.outcomes.items():
                calls.add_metric([*key, outcome], count)
            rows.add_metric(list(key), model.rows)
            queue.add_metric(list(key), model.queue.buckets(), model.queue.total)
            compute.add_metric(list(key), model.compute.buckets(), model.compute.total)
        yield from (calls, rows, queue, compute)
        waiting = GaugeMetricFamily("hansang_model_queue_depth", "Calls that wait now", labels=labels)
        running = GaugeMetricFamily("hansang_model_running", "Batches and streams in flight", labels=labels)
        for name, version, depth, flying in self.queued():
            waiting.add_metric([name, version], depth)
            running.add_metric([name, version], flying)
        yield from (waiting, running)
