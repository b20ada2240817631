"""Search for other objectives than latency, under limits, and the front between objectives.

Strategies are priced and changed in compiled code (`aimed_search`), half a million a second and more on a core. What
only the simulator prices is searched one strategy at a time (`by_simulator`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Unsupported
from distredge.latency.simulator.figures import Figures, measure
from distredge.planners.annealing.strategy_arrays import take
from distredge.planners.budget import Budget
from distredge.planners.objectives import (
    Point,
    check_lossless,
    infeasible,
    is_feasible,
    unbeaten,
    value,
)
from distredge.planners.other_objectives import by_simulator
from distredge.planners.other_objectives.loading_figures import load
from distredge.planners.other_objectives.one_objective import AIMS, has_watts, plan_for, planner_ref

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.problem import Objective, Problem

__all__ = ["Point", "front", "has_watts", "load", "pareto", "plan_for"]


BETWEEN = 5
"""Weights between throughput and energy, both among them, for which the front holds the best in each range."""

RANGES, RANGES_OF_TWO = 40, 96
"""Ranges of latency for which the front holds the best of each of the weights: with energy, and without."""

FASTEST_OF_FRONT = 0.25
"""Share of a front's budget that goes to a search for the lowest latency."""

MOST_POINTS = 48
"""Strategies that a front has at most."""

NEAR = 0.005
"""Distance in every objective, as a share of the front's range, within which of two strategies one is left out."""

FLAT = 0.6
"""Share of a front's strategies that is kept for its outline: the best in latency and one other objective."""


def pareto(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """Strategies of which none is better than another in latency, throughput and (where watts are known) energy.

    Limits hold as in `plan_for`.

    Returns:
        By rising latency; at least one, at most `MOST_POINTS`.

    Raises:
        ConfigError: if every split of the model is lossy and that is not allowed.
        Infeasible: if nothing that was found meets the limits.
    """
    check_lossless(problem)
    try:
        found = _front(problem, budget, seed)
    except Unsupported:
        found = _front_one_by_one(problem, budget, seed)
    feasible = [point for point in found if is_feasible(value(problem, point.figures))]
    if not feasible:
        raise infeasible(problem, min(found, key=lambda point: value(problem, point.figures)).figures)
    return front(feasible)


def _front(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    from distredge.planners.annealing.batch_pricing import plain
    from distredge.planners.other_objectives.aimed_search import AimedSearch

    pricer = load(problem, budget)
    if has_watts(problem):
        shares = np.linspace(0.0, 1.0, BETWEEN)
        weights = [tuple((1.0 - s) * np.array(AIMS["throughput"]) + s * np.array(AIMS["energy"])) for s in shares]
        run = AimedSearch(pricer, seed, weights, RANGES, FASTEST_OF_FRONT)
    else:
        run = AimedSearch(pricer, seed, [AIMS["throughput"]], RANGES_OF_TWO, FASTEST_OF_FRONT)
    plans, figures = run.run()
    chosen = spread(figures[:, :3], MOST_POINTS)
    plans, figures = take(plans, chosen), figures[chosen]
    plans = plain(plans, figures, partial(pricer.figures, again=True), pricer.codec)
    strategies = [pricer.codec.strategy(plans, k, planner_ref(problem, seed, "pareto")) for k in range(len(chosen))]
    return [Point(strategy, measure(problem, strategy)) for strategy in strategies]


def _front_one_by_one(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """An equal part of the budget goes to each objective."""
    objectives: list[Objective] = ["latency", "throughput"]
    if has_watts(problem):
        objectives.append("energy")
    found: list[Point] = []
    for number, objective in enumerate(objectives):
        if found and budget.expired():
            break
        part = budget.share(1.0 / (len(objectives) - number))
        found += by_simulator.explore(dataclasses.replace(problem, objective=objective), part, seed)
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in latency, throughput and energy, by rising latency."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.figures.latency_s, p.figures.period_s, p.figures.energy_j)):
        mine = point.figures
        if not any(_as_good(other.figures, mine) for other in kept):
            kept.append(point)
    return kept


def _as_good(one: Figures, other: Figures) -> bool:
    """Whether the first is at least as good in throughput and energy; differences within rounding do not count."""
    return one.period_s <= other.period_s * (1 + 1e-9) and one.energy_j <= other.energy_j * (1 + 1e-9)


def spread(figures: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of at most `count` rows that show all of a front.

    The best in each column come first. Then always the one furthest from those chosen: for `FLAT` of the count of those
    that none beats in the first column and another one, which make the front's outline, then of all.

    Args:
        figures: (N, n_objectives), positive; distances are those of logarithms, each column over its whole range.
        count: how many at most; rows nearer than `NEAR` to one that is chosen are left out.
    """
    logs = np.log(np.maximum(figures, 1e-30))
    size = np.ptp(logs, axis=0)
    places = (logs - logs.min(axis=0)) / np.where(size > 0, size, 1.0)
    outline = np.zeros(len(places), bool)
    for column in range(1, places.shape[1]):
        outline[unbeaten(logs[:, [0, column]])] = True
    chosen = list(dict.fromkeys(int(k) for k in places.argmin(axis=0)))[:count]
    away = np.min([np.abs(places - places[k]).max(axis=1) for k in chosen], axis=0)
    for among, most in ((outline, FLAT * count), (np.ones(len(places), bool), count)):
        while len(chosen) < most and (away * among).max() > NEAR:
            chosen.append(int((away * among).argmax()))
            away = np.minimum(away, np.abs(places - places[chosen[-1]]).max(axis=1))
    return np.array(sorted(chosen), np.int64)
