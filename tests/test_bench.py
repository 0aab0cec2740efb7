"""The bench measures what it says: its arithmetic, its pages, and (where wrk is) one short run of it all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))

from harness import conditions, features, plot, report, workloads  # noqa: E402  the bench is not a package of ours
from harness.measure import Plan  # noqa: E402
from harness.workloads import Goal  # noqa: E402


def row(server: str, rep: int, cpu_us: float, *, void: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"cpu_us": cpu_us, "rps": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "load": 0.5, "others": 0.02}
    return {"server": server, "conc": 16, "rep": rep, "void": void, **found, **more}


def results(*rows: dict[str, Any]) -> report.Results:
    return report.Results(workloads.W1, rows)


def test_a_ratio_is_taken_within_the_repetition_and_then_the_median() -> None:
    found = results(
        *(row("floor", rep, cpu) for rep, cpu in enumerate((10, 20, 40))),
        *(row("hansang", rep, cpu) for rep, cpu in enumerate((20, 30, 48))),
    )
    assert found.value("hansang", 16, "cpu_us") == 30
    assert found.ratio("hansang", 16, "cpu_us") == 1.5  # of 2, 1.5, 1.2; the ratio of the medians is the same here
    assert found.ratio("floor", 16, "cpu_us") == 1


def test_a_void_run_takes_part_in_nothing_and_is_told() -> None:
    found = results(
        row("floor", 0, 10),
        row("floor", 1, 1, void="3 non-2xx"),
        row("hansang", 0, 12),
        row("hansang", 1, 50),
    )
    assert found.value("floor", 16, "cpu_us") == 10
    assert found.ratio("hansang", 16, "cpu_us") == pytest.approx(1.2), "repetition 1 has no floor"
    assert "1, 1 void (3 non-2xx)" in report.table(found)


def test_a_goal_that_is_missed_is_said_to_be_missed() -> None:
    met = results(row("floor", 0, 10), row("hansang", 0, 15))
    missed = results(row("floor", 0, 10), row("hansang", 0, 15.2))
    assert "1.5, goal <= 1.5: met" in report.goals(met)
    assert "1.52, goal <= 1.5: **not met**" in report.goals(missed)


def test_goals_compare_with_the_baseline_the_bound_or_nothing() -> None:
    found = report.Results(workloads.W3, [row("floor", 0, 50, rps=399.0), row("hansang", 0, 80, rps=390.0)])
    assert found.judged(Goal("hansang", "rps", "bound", 0.97), 16) == pytest.approx(0.975)
    assert found.judged(Goal("hansang", "cpu_us", "value", 100), 16) == 80
    assert found.judged(Goal("hansang", "cpu_us", "difference", 30), 16) == 30
    assert found.judged(Goal("hansang", "first_ms", "value", 1), 16) is None


def test_a_busy_machine_is_said_to_be_busy() -> None:
    assert "Quiet:" in conditions.describe([row("floor", 0, 10)], Plan(), workloads.W1)
    assert "Busy:" in conditions.describe([row("floor", 0, 10, others=0.7)], Plan(), workloads.W1)


def test_the_plot_is_xml_with_a_row_for_each_server_and_no_path_of_this_machine() -> None:
    found = results(row("floor", 0, 10), row("hansang", 0, 15), row("fastapi-async", 0, 124))
    picture = plot.draw(found)
    texts = [element.text for element in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"raw ASGI (the floor)", "hansang, perceptron, inline", "FastAPI, async def"} <= set(texts)
    assert "15  (1.50x)" in texts
    page = report.page(found, conditions.describe(found.rows, Plan(), workloads.W1), "w1.svg")
    assert str(BENCH.parent) not in page + picture


def test_every_goal_is_about_a_server_of_its_workload_and_a_measure_with_a_name() -> None:
    for workload in workloads.ALL.values():
        names = {server.name for server in workload.servers}
        assert len(names) == len(workload.servers)
        assert {goal.server for goal in workload.goals} | {workload.baseline} <= names


def test_the_costs_of_features_are_measured_on_answers_that_are_right() -> None:
    found = features.costs(rounds=1, times=5)
    assert found[features.ALL_ON] > 0
    assert len(found) == 11


@pytest.mark.skipif(not shutil.which("wrk") or not shutil.which("taskset"), reason="needs wrk and taskset")
def test_a_short_run_measures_real_servers(tmp_path: Path) -> None:
    options = ["w1", "--secs", "1", "--reps", "1", "--conc", "4", "--servers", "floor,hansang", "--out", tmp_path]
    done = subprocess.run([sys.executable, BENCH / "run.py", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "w1.json").read_text(encoding="utf-8"))
    assert [(found["server"], found["void"]) for found in rows] == [("floor", None), ("hansang", None)]
    assert "**hansang**, perceptron, inline | 4 |" in done.stdout
