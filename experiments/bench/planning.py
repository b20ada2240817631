"""How long each method plans, and how good a search is after how long.

    python experiments/bench/planning.py [--quick]

Two published cases with 4 and 16 devices, VGG-16, the regime `paper`. Planning time is that of one call on the clock,
after one that loads and compiles what is needed; `distredge` (OSDS) trains for `--budget` seconds, `search` and `auto`
take what they are given (1 s with 4 devices, 5 s with 16). Then `search` plans with budgets of 0.1 to 5 s, each with
three seeds: the gap is that of the median run to the best strategy on record (experiments/results), or, if it is
better, the best of these runs.

Then what plans in milliseconds: how long a whole call takes in the median, what it predicts included, after plans for
the same boards and model at other rates (warm), and with tables, graph and profiles that are new (cold).

Prints three tables and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from distredge.errors import DistredgeError
from distredge.experiments.common.agent_measuring import renewed
from distredge.experiments.common.records import best_latency_s, path_of, read
from distredge.experiments.common.regimes import published_problem, seconds_for
from distredge.latency import simulate
from distredge.latency.kernel.kernel import warm
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.planners import METHODS, plan
from distredge.planners.agent.online import at_rates
from distredge.problem import Problem
from distredge.strategy import Strategy

CASES = {"4": "db-50", "16": "ld"}
REGIME = "paper"
BUDGETS_S = (0.1, 0.3, 1.0, 3.0, 5.0)
BUDGETS_MS = (5, 10, 20, 40)


def planning(problem: Problem, train_s: float) -> dict[str, dict[str, float]]:
    """Method -> seconds of planning and images per second of the strategy; without those that do not apply."""
    found = {}
    for method in METHODS:
        budget_s = train_s if method == "distredge" else seconds_for(problem)
        try:
            plan(problem, method, evaluations=10)  # loads and compiles
            start_s = time.perf_counter()
            strategy = plan(problem, method, budget_s)
        except DistredgeError as error:
            print(f"{method} does not apply: {error}")
            continue
        seconds = time.perf_counter() - start_s
        found[method] = {"planning_s": seconds, "ips": 1.0 / simulate(problem, strategy).latency_s}
    return found


def quality(graph: Graph, case: str, seeds: int) -> dict[str, float]:
    """Budget in seconds -> latency of the search's median run over the best known, less 1."""
    problem = published_problem(graph, case, REGIME)
    records = [r for r in read(path_of(REGIME)) if r.case == f"{graph.name} on {case}"]
    best_s = best_latency_s(problem, records)
    runs: dict[float, list[float]] = {}
    for budget_s in BUDGETS_S:
        strategies = [plan(problem, "search", budget_s, seed) for seed in range(seeds)]
        runs[budget_s] = [simulate(problem, strategy).latency_s for strategy in strategies]
    best_s = min(best_s, *(min(found) for found in runs.values()))
    return {str(budget_s): statistics.median(found) / best_s - 1.0 for budget_s, found in runs.items()}


def milliseconds(graph: Graph, case: str, repeats: int) -> dict[str, dict[str, float]]:
    """Method and budget -> median milliseconds of a whole call, warm and cold, and images per second when warm."""
    problem = published_problem(graph, case, REGIME)
    calls: dict[str, Callable[[Problem], Strategy]] = {"agent": partial(plan, method="agent")}
    for ms in BUDGETS_MS:
        calls[f"search, {ms} ms"] = partial(plan, method="search", budget_s=ms / 1e3)
    found = {}
    for name, call in calls.items():
        for day in range(2):
            call(_another_day(problem, day))
        warm_ms, cold_ms, ips = [], [], []
        for day in range(2, 2 + repeats):
            other = _another_day(problem, day)
            warm_ms.append(_milliseconds(call, other))
            ips.append(1.0 / simulate(other, call(other)).latency_s)
        for _ in range(max(1, repeats // 3)):
            cold_ms.append(_milliseconds(call, renewed(problem, load_model(graph.name))))
        medians = (statistics.median(values) for values in (warm_ms, cold_ms, ips))
        found[name] = dict(zip(("warm_ms", "cold_ms", "ips"), medians, strict=True))
    return found


def _milliseconds(call: Callable[[Problem], Strategy], problem: Problem) -> float:
    start_s = time.perf_counter()
    call(problem)
    return 1e3 * (time.perf_counter() - start_s)


def _another_day(problem: Problem, day: int) -> Problem:
    """The same boards at rates that are some per cent higher."""
    links = [(device.uplink, device.downlink) for device in problem.cluster.devices]
    rates_bps = [[(link.rate_bps or 0.0) * (1.0 + 0.01 * day) for link in pair] for pair in links]
    return replace(problem, cluster=at_rates(problem.cluster, rates_bps))


def main() -> None:
    options = _options()
    warm()
    graph = load_model("vgg16")
    methods = {}
    for devices, case in CASES.items():
        methods[devices] = planning(published_problem(graph, case, REGIME), options.budget)
    print(f"\n{'':<14}" + "".join(f"{f'{case}, {n} devices':>26}" for n, case in CASES.items()))
    print(f"{'method':<14}" + f"{'planning s':>14}{'IPS':>12}" * len(CASES))
    for method in METHODS:
        cells = [methods[n].get(method) for n in CASES]
        print(
            f"{method:<14}"
            + "".join(f"{'-':>26}" if c is None else f"{c['planning_s']:>14.3f}{c['ips']:>12.2f}" for c in cells)
        )
    gaps = {devices: quality(graph, case, 1 if options.quick else 3) for devices, case in CASES.items()}
    print("\ngap of `search` to the best known, %")
    print(f"{'after s':<14}" + "".join(f"{text:>10}" for text in map(str, BUDGETS_S)))
    for devices, by_budget in gaps.items():
        print(f"{devices + ' devices':<14}" + "".join(f"{100 * by_budget[str(b)]:>10.2f}" for b in BUDGETS_S))
    short = {devices: milliseconds(graph, case, 3 if options.quick else 15) for devices, case in CASES.items()}
    print("\nwhat plans in milliseconds")
    print(f"{'':<14}" + "".join(f"{f'{case}, {n} devices':>32}" for n, case in CASES.items()))
    print(f"{'call':<14}" + f"{'warm ms':>12}{'cold ms':>10}{'IPS':>10}" * len(CASES))
    for name in next(iter(short.values())):
        rows = [short[n][name] for n in CASES]
        shown = (f"{r['warm_ms']:>12.1f}{r['cold_ms']:>10.1f}{r['ips']:>10.2f}" for r in rows)
        print(f"{name:<14}" + "".join(shown))
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "planning": methods, "search_gap": gaps, "short": short}))


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 s of training and one seed (about a minute)")
    parser.add_argument(
        "--budget", type=float, help="seconds of training for `distredge` (default: 60; 10 with --quick)"
    )
    options = parser.parse_args(arguments)
    if options.budget is None:
        options.budget = 10.0 if options.quick else 60.0
    if not (math.isfinite(options.budget) and options.budget > 0):
        parser.error(f"--budget: found {options.budget}, accepted: a number of seconds above 0")
    return options


if __name__ == "__main__":
    main()
