"""Adds rows up: medians over repetitions, ratios to the baseline within the same repetition, goals, a Markdown page.

A run with an error is void: it is counted, and takes part in nothing. It measures nothing itself.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from harness.measure import Row
from harness.workloads import Against, Goal, Workload


@dataclass(frozen=True)
class Results:
    """One workload's rows."""

    workload: Workload
    rows: Sequence[Row]

    def servers(self) -> list[str]:
        """Those measured, in the workload's order."""
        seen = {row["server"] for row in self.rows}
        return [server.name for server in self.workload.servers if server.name in seen]

    def concs(self) -> list[int]:
        return sorted({row["conc"] for row in self.rows})

    def title(self, name: str) -> str:
        return next(server.title for server in self.workload.servers if server.name == name)

    def valid(self, server: str, conc: int) -> dict[int, Row]:
        """Its rows that count, by repetition."""
        return {
            row["rep"]: row
            for row in self.rows
            if row["server"] == server and row["conc"] == conc and row["void"] is None
        }

    def void(self, server: str, conc: int) -> list[str]:
        """Why the others do not."""
        rows = (row for row in self.rows if row["server"] == server and row["conc"] == conc)
        return [row["void"] for row in rows if row["void"] is not None]

    def value(self, server: str, conc: int, measure: str) -> float | None:
        """The median."""
        return _median([row[measure] for row in self.valid(server, conc).values() if measure in row])

    def against_baseline(
        self, server: str, conc: int, measure: str, compare: Callable[[float, float], float]
    ) -> float | None:
        """The median of `compare(its value, the baseline's)` over the repetitions that both have."""
        base = self.valid(self.workload.baseline, conc)
        pairs = [(row, base[rep]) for rep, row in self.valid(server, conc).items() if rep in base]
        return _median([compare(row[measure], other[measure]) for row, other in pairs if measure in row])

    def ratio(self, server: str, conc: int, measure: str) -> float | None:
        return self.against_baseline(server, conc, measure, operator.truediv)

    def judged(self, goal: Goal, conc: int) -> float | None:
        """What a goal is about. None: not measured."""
        if goal.against == "ratio":
            return self.ratio(goal.server, conc, goal.measure)
        if goal.against == "difference":
            return self.against_baseline(goal.server, conc, goal.measure, operator.sub)
        value = self.value(goal.server, conc, goal.measure)
        if goal.against == "bound" and value is not None:
            assert self.workload.bound is not None
            return value / self.workload.bound
        return value


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


Column: TypeAlias = tuple[str, Callable[[Results, str, int], "float | None"], str]
"""A heading, the number, its format."""


def _of(measure: str, scale: float = 1.0) -> Callable[[Results, str, int], float | None]:
    def number(results: Results, server: str, conc: int) -> float | None:
        value = results.value(server, conc, measure)
        return None if value is None else value * scale

    return number


def _ratio_of(measure: str) -> Callable[[Results, str, int], float | None]:
    return lambda results, server, conc: results.ratio(server, conc, measure)


def _of_bound(results: Results, server: str, conc: int) -> float | None:
    value = results.value(server, conc, "rps")
    return None if value is None or results.workload.bound is None else value / results.workload.bound


COLUMNS: dict[str, list[Column]] = {
    "requests": [
        ("CPU us/request", _of("cpu_us"), ",.1f"),
        ("x floor", _ratio_of("cpu_us"), ".2f"),
        ("requests/s", _of("rps"), ",.0f"),
        ("of the floor's", _ratio_of("rps"), ".2f"),
        ("of the bound", _of_bound, ".3f"),
        ("p50 ms", _of("p50_ms"), ".2f"),
        ("p99 ms", _of("p99_ms"), ".2f"),
    ],
    "stream": [
        ("CPU us/event", _of("cpu_us"), ",.1f"),
        ("x floor", _ratio_of("cpu_us"), ".2f"),
        ("events/s", _of("eps"), ",.0f"),
        ("first event ms", _of("first_ms"), ".2f"),
        ("events", _of("events"), ".0f"),
    ],
    "cold": [
        ("first 200, ms", _of("ready_ms"), ",.0f"),
        ("x FastAPI", _ratio_of("ready_ms"), ".2f"),
        ("CPU s", _of("cpu_s"), ".2f"),
        ("x FastAPI", _ratio_of("cpu_s"), ".2f"),
        ("RSS MiB", _of("rss_mb"), ".1f"),
        ("PSS MiB", _of("pss_mb"), ".1f"),
        ("processes", _of("processes"), ".0f"),
        ("idle, % of a core", _of("idle", 100), ".2f"),
    ],
}


def table(results: Results) -> str:
    """Markdown. Columns that nobody has a number for are left out."""
    lines = [(server, conc) for conc in results.concs() for server in results.servers()]
    columns = [
        column
        for column in COLUMNS[results.workload.kind]
        if any(column[1](results, *line) is not None for line in lines)
    ]
    connections = results.workload.kind != "cold"
    heads = ["server", *(["c"] if connections else []), *(head for head, _, _ in columns), "runs"]
    written = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for server, conc in lines:
        numbers = [_shown(number(results, server, conc), form) for _, number, form in columns]
        runs, void = len(results.valid(server, conc)), results.void(server, conc)
        note = f"{runs}, {len(void)} void ({void[0]})" if void else str(runs)
        written.append([results.title(server), *([str(conc)] if connections else []), *numbers, note])
    return "".join(f"| {' | '.join(line)} |\n" for line in written)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


_WORDS: dict[str, str] = {
    "cpu_us": "CPU us",
    "rps": "requests/s",
    "p99_ms": "p99 ms",
    "first_ms": "first event, ms",
    "ready_ms": "first 200",
    "rss_mb": "RSS, MiB",
    "processes": "processes",
    "idle": "idle share of a core",
}
_AGAINST: dict[Against, str] = {
    "ratio": " / baseline",
    "difference": " over baseline",
    "bound": " / bound",
    "value": "",
}


def goals(results: Results) -> str:
    """One line for each goal and number of connections: measured, wanted, met or not."""
    lines = []
    for goal in results.workload.goals:
        for conc in results.concs():
            if goal.conc and conc not in goal.conc:
                continue
            value = results.judged(goal, conc)
            if value is None:
                continue
            met = value >= goal.limit if goal.at_least else value <= goal.limit
            what = _WORDS[goal.measure] + _AGAINST[goal.against]
            where = f" (c={conc})" if conc else ""
            wanted = f"{'>=' if goal.at_least else '<='} {goal.limit:g}"
            lines.append(
                f"- {goal.server}{where}: {what} {value:.3g}, goal {wanted}: {'met' if met else '**not met**'}\n"
            )
    return "".join(lines)


def page(results: Results, conditions: str, plot: str, extra: str = "") -> str:
    """The whole Markdown page of one workload."""
    workload = results.workload
    parts = [f"# {workload.title}\n", f"{workload.about}\n", f"{conditions}\n", f"![{workload.title}]({plot})\n"]
    parts += [table(results), goals(results), extra]
    return "\n".join(part for part in parts if part)
