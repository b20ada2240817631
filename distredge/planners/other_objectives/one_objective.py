"""The best strategy for one objective under limits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Unsupported
from distredge.latency.simulator.figures import measure
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import joined, take
from distredge.planners.budget import Budget
from distredge.planners.objectives import (
    Point,
    check_objective,
    infeasible,
    is_feasible,
    value,
    without_watts,
)
from distredge.planners.other_objectives import by_simulator
from distredge.planners.other_objectives.loading_figures import load
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.other_objectives.aimed_search import Weights
    from distredge.problem import Objective, Problem
    from distredge.strategy import Strategy

AIMS: dict[Objective, Weights] = {
    "latency": (1.0, 0.0, 0.0),
    "throughput": (0.0, 1.0, 0.0),
    "energy": (0.0, 0.0, 1.0),
}
"""Weights of the logarithms of latency, period and energy."""

FASTEST: dict[Objective, float] = {"latency": 0.25, "throughput": 0.1, "energy": 0.1}
"""Share of the budget that goes to a search for the lowest latency, by objective."""


def plan_for(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy for the problem's objective under its limits.

    Raises:
        Infeasible: if nothing that was found meets the limits; says what came closest.
        PlannerError: if energy is asked for and a profile has no watts.
    """
    check_objective(problem)
    try:
        found = _best(problem, budget, seed)
    except Unsupported:
        found = by_simulator.explore(problem, budget, seed)
    best = min(found, key=lambda point: value(problem, point.figures))
    if not is_feasible(value(problem, best.figures)):
        raise infeasible(problem, best.figures)
    return best.strategy


def _best(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """What comes into question as the best, with its figures by the simulator."""
    from distredge.planners.annealing.batch_pricing import plain
    from distredge.planners.other_objectives.aimed_search import AimedSearch

    pricer = load(problem, budget)
    objective = problem.objective
    plans, figures = AimedSearch(pricer, seed, [AIMS[objective]], 1, FASTEST[objective]).run()
    plans = plain(plans, figures, partial(pricer.figures, again=True), pricer.codec)
    if figures[0, 3] > 0:
        # Memory is priced from above: what nearly fits may fit.
        batch, alone = starts(pricer.codec)
        plans = joined([plans, take(batch, np.arange(alone))])
    strategies = [pricer.codec.strategy(plans, k, planner_ref(problem, seed)) for k in range(len(plans.cuts))]
    return [Point(strategy, measure(problem, strategy)) for strategy in strategies]


def planner_ref(problem: Problem, seed: int, objective: str | None = None) -> PlannerRef:
    """How strategies say that this search made them; for the problem's objective, or another one that is named."""
    return PlannerRef("search", seed, {"objective": objective or problem.objective})


def has_watts(problem: Problem) -> bool:
    """Whether every profile of the cluster says what the board draws: otherwise energies do not compare."""
    return not without_watts(problem)
