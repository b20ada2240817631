"""How fast strategies are searched for each objective, and how good fronts between objectives are after how long.

    python experiments/bench/tradeoff.py [--quick]

For each case: strategies priced per second of planning for latency, throughput, energy (where profiles have watts), and
latency under limits on memory (each device has nine tenths of what the best single one needs); throughput and
energy reached; then fronts with budgets of 1 and 5 s: how many strategies none of which another one beats, and the
hypervolume. That is the volume, of logarithms of latency, period and energy, which the front beats below three times
the figures of the best single device; that device alone has 1. Loading and compiling count in nothing.

Prints two tables and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence

import numpy as np

from distredge.cluster import load_cluster
from distredge.errors import Infeasible
from distredge.latency import simulate
from distredge.latency.kernel.kernel import warm
from distredge.latency.simulator.figures import Figures, measure
from distredge.model.capture import load_model
from distredge.planners import plan, run
from distredge.planners.budget import Budget
from distredge.planners.other_objectives.one_objective import has_watts
from distredge.planners.other_objectives.pareto import pareto
from distredge.problem import Problem

CASES = (("vgg16", "db-50"), ("vgg16", "na-nano"), ("resnet50", "la"), ("vgg16", "this-machine"))
BUDGETS_S = (1.0, 5.0)
ROOM = 3.0
"""How much worse than the best single device what counts as beaten may be."""

MEMORY = 0.9
"""Memory of each device, as a share of what the best single one needs."""

Point = tuple[float, ...]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume between points and a reference that is larger in every coordinate; 0 for points beyond it."""
    inside = sorted((p for p in points if all(a < b for a, b in zip(p, reference, strict=True))), key=lambda p: p[-1])
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - inside[0][0]
    total = 0.0
    for k, point in enumerate(inside):
        above = inside[k + 1][-1] if k + 1 < len(inside) else reference[-1]
        if above > point[-1]:
            total += hypervolume([p[:-1] for p in inside[: k + 1]], reference[:-1]) * (above - point[-1])
    return total


def volume_over(alone: Figures, figures: Sequence[Figures], watts: bool) -> float:
    """The hypervolume of a front over a single device's."""

    def logs(f: Figures) -> Point:
        found = (math.log(f.latency_s), math.log(f.period_s), math.log(max(f.energy_j, 1e-30)))
        return found if watts else found[:2]

    worst = tuple(x + math.log(ROOM) for x in logs(alone))
    return hypervolume([logs(f) for f in figures], worst) / math.log(ROOM) ** len(worst)


def objectives(problem: Problem) -> dict[str, Problem]:
    """What a case is planned for."""
    found = {"latency": problem, "throughput": dataclasses.replace(problem, objective="throughput")}
    if has_watts(problem):
        found["energy"] = dataclasses.replace(problem, objective="energy")
    peak = max(simulate(problem, plan(problem, "offload")).peak_memory_bytes.values())
    devices = tuple(dataclasses.replace(d, memory_bytes=int(MEMORY * peak)) for d in problem.cluster.devices)
    cluster = dataclasses.replace(problem.cluster, devices=devices)
    found["memory"] = dataclasses.replace(problem, cluster=cluster, respect_memory=True)
    return found


def reached(problem: Problem, budget_s: float) -> tuple[float, Figures | None]:
    """Strategies per second of one run of `search`, and the figures of what it found, if anything."""
    with contextlib.suppress(Infeasible):
        run(problem, "search", Budget(evaluations=200))  # loads and compiles
    budget, figures = Budget(budget_s), None
    with contextlib.suppress(Infeasible):
        figures = measure(problem, run(problem, "search", budget))
    return budget.done / budget.elapsed_s, figures


def front_of(problem: Problem, budget_s: float) -> dict[str, float]:
    """Size, hypervolume and seconds of one front."""
    alone = measure(problem, plan(problem, "offload"))
    started_s = time.perf_counter()
    points = pareto(problem, Budget(budget_s), 0)
    seconds = time.perf_counter() - started_s
    volume = volume_over(alone, [point.figures for point in points], has_watts(problem))
    return {"size": len(points), "hypervolume": volume, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fronts of 1 s alone (about half a minute)")
    options = parser.parse_args()
    warm()
    speeds: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    fronts: dict[str, dict[str, dict[str, float]]] = {}
    for model, case in CASES:
        graph = load_model(model)
        problem, name = Problem(graph, load_cluster(case, [graph])), f"{model} on {case}"
        results = {objective: reached(p, BUDGETS_S[0]) for objective, p in objectives(problem).items()}
        speeds[name] = {objective: speed for objective, (speed, _) in results.items()}
        best = {objective: figures for objective, (_, figures) in results.items() if figures is not None}
        found[name] = {}
        for objective, key in (("throughput", "images_per_s"), ("energy", "energy_j"), ("memory", "latency_s")):
            if objective in best:
                found[name][f"{objective}: {key}"] = getattr(best[objective], key)
        budgets = BUDGETS_S[:1] if options.quick else BUDGETS_S
        fronts[name] = {f"{budget_s:g}": front_of(problem, budget_s) for budget_s in budgets}
    print("\nthousand strategies per second, and what was found after 1 s")
    headings = ("latency", "throughput", "energy", "memory")
    print(f"{'':<24}" + "".join(f"{h:>12}" for h in (*headings, "images/s", "J", "s, memory")))
    for name, speed in speeds.items():
        cells = [f"{speed[h] / 1e3:.1f}" if h in speed else "-" for h in headings]
        keys = ("throughput: images_per_s", "energy: energy_j", "memory: latency_s")
        cells += [f"{found[name][key]:.4g}" if key in found[name] else "-" for key in keys]
        print(f"{name:<24}" + "".join(f"{cell:>12}" for cell in cells))
    print("\nfronts")
    print(f"{'':<24}{'budget s':>12}{'took s':>12}{'size':>12}{'hypervolume':>14}")
    for name, by_budget in fronts.items():
        for budget_s, one in by_budget.items():
            print(f"{name:<24}{budget_s:>12}{one['seconds']:>12.2f}{one['size']:>12.0f}{one['hypervolume']:>14.3f}")
    values = [one["hypervolume"] for by_budget in fronts.values() for one in by_budget.values()]
    print(
        json.dumps(
            {
                "cores": len(os.sched_getaffinity(0)),
                "strategies_per_s": speeds,
                "found_after_1_s": found,
                "front": fronts,
                "hypervolume_mean": float(np.mean(values)),
            }
        )
    )


if __name__ == "__main__":
    main()
