"""The published methods as published, measured on emulated boards: do their plans keep what their papers assume?

    python experiments/papers_on_testbed.py --quick    HALP measured now, with few frames; the others from the record
    python experiments/papers_on_testbed.py --full     everything (some 10 minutes), and the record is written anew
    python experiments/papers_on_testbed.py --records  only what is on record

HALP on three Raspberry Pi 4; Offload, DeepThings, CoEdge, AOFL and DistrEdge on DB-50 and NA-nano (VGG-16, boards
calibrated to DistrEdge's single-device figures). Each plans under its paper's assumptions: float32 input, devices in
the cluster's order, every pair of boards with a link of its own. Measured is on links that share what they carry, as
networks do. Outputs are compared with those of the whole model. DistrEdge's strategies are those trained for
experiments/planner_quality.py.

The record stands in experiments/results/papers_on_testbed.json. Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distredge.cluster import load_cluster
from distredge.experiments.common import published
from distredge.experiments.common.fidelity_beds import Bed
from distredge.experiments.common.fidelity_measure import predict
from distredge.experiments.common.fidelity_strategies import computing, error_of, inputs_for
from distredge.experiments.common.records import RESULTS, path_of, price, read, today
from distredge.experiments.common.regimes import published_problem
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.problem import Problem
from distredge.strategy import Strategy
from distredge.writing import write

KEPT = RESULTS / "papers_on_testbed.json"
MODEL = "vgg16"
HALP_CASE = "halp-pi4"
CASES = {
    HALP_CASE: ("offload", "halp"),
    "db-50": ("offload", "deepthings", "coedge", "aofl", "distredge"),
    "na-nano": ("offload", "deepthings", "coedge", "aofl", "distredge"),
}
FRAMES, QUICK_FRAMES, WARM_UP = 15, 5, 2
ALLOWED = 1e-5
"""Largest difference from the whole model's output, relative to its largest value, of a lossless strategy."""

OpenBed = Callable[[Problem], AbstractContextManager[Bed]]


def open_bed(problem: Problem) -> AbstractContextManager[Bed]:
    """A testbed whose boards compute the real result."""
    from distredge.testbed.testbed import Testbed

    bed: AbstractContextManager[Bed] = Testbed(problem.cluster)
    return bed


def problem_of(graph: Graph, case: str) -> Problem:
    """A case under its paper's assumptions."""
    if case != HALP_CASE:
        return published_problem(graph, case, "paper")
    cluster = dataclasses.replace(load_cluster(case, [graph]), link_model="independent")
    return Problem(graph, cluster, boundary_first=True)


def strategy_of(problem: Problem, case: str, method: str) -> Strategy | None:
    """What a method plans there; of `distredge` the best that was trained; None where nothing is on record."""
    if method != "distredge":
        return plan(problem, method, budget_s=20.0)
    trained = [r for r in read(path_of("paper")) if r.case == f"{MODEL} on {case}" and r.method == method]
    priced = [(s, r.strategy) for r in trained if r.strategy and (s := price(problem, r)) is not None]
    if not priced:
        return None
    return Strategy.from_json(json.dumps(min(priced, key=lambda pair: pair[0])[1]), "record")


def measure(graph: Graph, case: str, frames: int, bed_of: OpenBed = open_bed) -> Iterator[dict[str, Any]]:
    """Measures a case's methods one after the other on one testbed; a row for each."""
    problem = problem_of(graph, case)
    plans = [(method, strategy_of(problem, case, method)) for method in CASES[case]]
    with bed_of(problem) as bed:
        for method, strategy in plans:
            if strategy is None:
                continue
            inputs = inputs_for(graph, strategy)
            found = bed.measure(problem, strategy, inputs, frames, 1, WARM_UP)
            apart = error_of(graph, strategy, inputs, found.outputs)
            median_s = statistics.median(found.latencies_s) if found.latencies_s else None
            yield {
                "case": case,
                "method": method,
                "boards": len(problem.cluster.devices),
                "computing": computing(strategy),
                "volumes": len(strategy.volumes),
                "measured_s": median_s,
                "best_s": min(found.latencies_s, default=None),
                "predicted_shared_s": predict(problem, strategy, "shared"),
                "predicted_independent_s": predict(problem, strategy, "independent"),
                "published_ips": None if case == HALP_CASE else published.ips(MODEL, case, method),
                "difference": apart,
                "frames": found.frames,
                "invalid": found.invalid,
                "dilation": round(found.dilation, 3),
                "mode": bed.mode,
            }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed-ups over the best single device, errors of the predictions, and how far outputs are apart."""
    measured = [row for row in rows if row["measured_s"] is not None]
    by = {(row["case"], row["method"]): row for row in measured}
    errors = [abs(row["predicted_shared_s"] / row["measured_s"] - 1) for row in measured]
    independent = [abs(row["predicted_independent_s"] / row["measured_s"] - 1) for row in measured]
    found: dict[str, Any] = {
        "strategies": len(measured),
        "error_mean": statistics.fmean(errors) if errors else None,
        "error_mean_independent": statistics.fmean(independent) if independent else None,
        "difference_max": max((row["difference"] for row in rows), default=None),
        "outputs_wrong": sum(not row["difference"] <= ALLOWED for row in rows),
        "halp_speedup_pi4": _speedup(by, HALP_CASE, "halp"),
    }
    for case in CASES:
        if case != HALP_CASE:
            speedups = {m: _speedup(by, case, m) for m in CASES[case] if m != "offload"}
            found[f"speedup_{case}"] = {m: s for m, s in speedups.items() if s is not None}
    return found


def _speedup(by: dict[tuple[str, str], dict[str, Any]], case: str, method: str) -> float | None:
    if (case, "offload") not in by or (case, method) not in by:
        return None
    return float(by[case, "offload"]["measured_s"] / by[case, method]["measured_s"])


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print(
        f"{'case':<10}{'method':<12}{'boards':>7}{'volumes':>8}{'measured ms':>12}{'shared':>9}{'error':>8}"
        f"{'independent':>12}{'error':>8}{'IPS':>7}{'published':>10}{'x offload':>10}{'difference':>11}{'dilation':>9}"
    )
    alone = {row["case"]: row["measured_s"] for row in rows if row["method"] == "offload"}
    for row in rows:
        seconds = row["measured_s"]
        if seconds is None:
            print(f"{row['case']:<10}{row['method']:<12} no valid frame")
            continue
        shared, independent = row["predicted_shared_s"], row["predicted_independent_s"]
        over = f"{alone[row['case']] / seconds:.2f}" if alone.get(row["case"]) else ""
        told = "" if row["published_ips"] is None else f"{row['published_ips']:g}"
        print(
            f"{row['case']:<10}{row['method']:<12}{'{computing}/{boards}'.format(**row):>7}{row['volumes']:>8}"
            f"{1e3 * seconds:>12.1f}{1e3 * shared:>9.1f}{100 * (shared / seconds - 1):>+7.1f}%"
            f"{1e3 * independent:>12.1f}{100 * (independent / seconds - 1):>+7.1f}%{1 / seconds:>7.2f}{told:>10}"
            f"{over:>10}{row['difference']:>11.1g}{row['dilation']:>9.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="at most 5 minutes on 2 cores (the default)")
    how.add_argument("--full", action="store_true", help="measure everything and write the record")
    how.add_argument("--records", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=KEPT, help="file of the record")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    graph = load_model(MODEL)
    rows: list[dict[str, Any]] = []
    for case in () if options.records else CASES if options.full else (HALP_CASE,):
        for row in measure(graph, case, FRAMES if options.full else QUICK_FRAMES):
            rows.append(row)
            print(f"{case}: {row['method']} measured", file=sys.stderr, flush=True)
    if rows:
        show(rows)
    if options.full:
        kept = {**figures(rows), "date": today(), "cores": len(os.sched_getaffinity(0)), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write(options.out, json.dumps(kept, indent=1) + "\n")
    elif kept:
        print(f"\non record since {kept['date']}, on {kept['cores']} processors")
        show(kept["rows"])
    told = {key: value for key, value in kept.items() if key != "rows"}
    if rows and not options.full:
        told["quick"] = figures(rows)
    print(json.dumps(told))
    wrong = [row for row in rows if not row["difference"] <= ALLOWED]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
