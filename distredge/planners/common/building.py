"""What several planners need: pricing, building strategies, and figures to show beside one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distredge import metric_names
from distredge.errors import Infeasible
from distredge.latency import evaluate, offload, offload_latency_s
from distredge.model.wires import WIRE_BYTES
from distredge.strategy import Head, InputSpec, ModelRef, PlannerRef, Strategy, Volume

if TYPE_CHECKING:
    from distredge.model.cuts import Cut
    from distredge.planners.budget import Budget
    from distredge.problem import Problem


def price(problem: Problem, strategy: Strategy, budget: Budget) -> float:
    """Latency of a strategy in seconds, counted against the budget; infinite when it needs a link that is down."""
    try:
        latency_s = evaluate(problem, strategy)
    except Infeasible:
        latency_s = math.inf
    budget.spend()
    budget.report(latency_s)
    return latency_s


def predict(problem: Problem, strategy: Strategy) -> Strategy:
    """The strategy with its simulated latency and that of the best single device beside it.

    Both come from the reference simulator: the kernel that planners search with differs from it in the last digit. A
    planner that says both itself, since it has no time for that, has asked the kernel.
    """
    if strategy.predicted.keys() >= {metric_names.LATENCY_S, metric_names.OFFLOAD_LATENCY_S}:
        return strategy
    figures = {
        metric_names.LATENCY_S: evaluate(problem, strategy),
        metric_names.OFFLOAD_LATENCY_S: offload_latency_s(problem),
    }
    return strategy.replace(predicted=figures)


def volume(cut: Cut, rows: Sequence[int], columns: Sequence[int] | None = None) -> Volume:
    """A volume that ends at a cut, its rows (and columns) dealt out as given."""
    across = None if columns is None else tuple(int(x) for x in columns)
    return Volume(cut.tensors, cut.reference, tuple(int(x) for x in rows), across)


def build(
    problem: Problem,
    devices: Sequence[str],
    volumes: Sequence[Volume],
    head: str,
    planner: PlannerRef,
) -> Strategy:
    """A strategy for the problem's model; its input travels in the smallest dtype that the problem allows."""
    graph = problem.graph
    model = ModelRef.of(graph)
    return Strategy(model, tuple(devices), tuple(volumes), Head(head), InputSpec(smallest_dtype(problem)), planner)


def smallest_dtype(problem: Problem) -> str:
    """The dtype of the fewest bytes in which the problem lets the input travel."""
    return min(problem.input_dtypes, key=WIRE_BYTES.__getitem__)


def best_device(problem: Problem, budget: Budget) -> str:
    """The device that finishes the whole model soonest, input and result included; the first among equals.

    Every device counts against the budget, whoever asked before: what a planner finds with its evaluations must not
    depend on that.

    Raises:
        Infeasible: if no device can be reached.
    """
    strategy, latency_s = offload(problem)
    budget.spend(len(problem.cluster.devices))
    budget.report(latency_s)
    return strategy.head.device


def named(strategy: Strategy, method: str, seed: int, settings: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy under another planner's name."""
    return strategy.replace(planner=PlannerRef(method, seed, dict(settings or {})))


def best_of(problem: Problem, strategies: Iterable[Strategy], budget: Budget) -> Strategy:
    """The fastest of some strategies, the first among equals; what the budget cuts off is said in `cut_short`."""
    best: tuple[float, Strategy] | None = None
    for number, strategy in enumerate(strategies):
        if best is not None and budget.expired():
            budget.cut_short = f"the budget ended after {number} candidates"
            break
        latency_s = price(problem, strategy, budget)
        if best is None or latency_s < best[0]:
            best = latency_s, strategy
    if best is None or math.isinf(best[0]):
        raise Infeasible(f"no candidate can run on '{problem.cluster.name}': a link that it needs is down")
    return best[1]
