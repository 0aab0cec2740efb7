#!/usr/bin/env python3
"""Measures hansang beside the floor, a bare FastAPI, and other model servers: `bench/run.py --help`.

Writes <workload>.json, .md and .svg to bench/out; with --publish the last two to bench/results as well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from harness import conditions, load, plot, process, report
from harness.measure import Plan, measure
from harness.servers import BENCH, OUT
from harness.workloads import ALL, Workload


def main() -> int:
    """Run what is asked for; 1 if the machine lacks something."""
    args = _arguments()
    if lacking := load.missing():
        print(lacking, file=sys.stderr)
        return 1
    if process.SERVER_CORE == process.LOAD_CORE:
        print("Only one core: the load shares it with the server. Compare CPU figures only.", file=sys.stderr)
    os.sched_setaffinity(0, {process.LOAD_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers too, as Ctrl+C does
    plan = Plan(args.reps, args.secs, tuple(args.conc), tuple(args.servers), args.patience)
    workloads = list(ALL.values()) if "all" in args.workload else [ALL[key] for key in args.workload]
    for workload in workloads:
        _one(workload, plan, [args.out, BENCH / "results"] if args.publish else [args.out])
    return 0


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "workload",
        nargs="*",
        default=["all"],
        help="; ".join(f"{key}: {each.title.partition(': ')[2]}" for key, each in ALL.items()) + "; all (the default)",
    )
    parser.add_argument("--reps", type=int, default=3, help="repetitions (3)")
    parser.add_argument("--secs", type=int, default=3, help="seconds of each run (3)")
    parser.add_argument("--conc", type=numbers, default=[], metavar="1,16,64", help="connections")
    parser.add_argument("--servers", type=lambda text: text.split(","), default=[], metavar="floor,hansang")
    parser.add_argument(
        "--patience", type=int, default=0, metavar="N", help="repeat a run disturbed by other programs, N times at most"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the results go (bench/out)")
    parser.add_argument("--publish", action="store_true", help="also write the page and the plot to bench/results")
    args = parser.parse_args()
    if unknown := [key for key in args.workload if key not in (*ALL, "all")]:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join(ALL)} and all")
    return args


def _one(workload: Workload, plan: Plan, folders: list[Path]) -> None:
    rows = measure(workload, plan)
    if not rows:
        print(f"{workload.key}: nothing was measured", file=sys.stderr)
        return
    results = report.Results(workload, rows)
    extra = _features() if workload.key == "w1" and not plan.servers else ""
    page = report.page(results, conditions.describe(rows, plan, workload), f"{workload.key}.svg", extra)
    picture = plot.draw(results)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{workload.key}.md").write_text(page, encoding="utf-8")
        (folder / f"{workload.key}.svg").write_text(picture, encoding="utf-8")
    (folders[0] / f"{workload.key}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(page)


def _features() -> str:
    from harness import features  # the only part that imports hansang

    return features.page()


if __name__ == "__main__":
    sys.exit(main())
