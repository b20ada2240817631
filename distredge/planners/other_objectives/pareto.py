"""Search for other objectives than latency, under limits, and the front between objectives.

Strategies are priced and changed in compiled code (`compromise`), half a million a second and more on a core. What only
the simulator prices is searched one strategy at a time (`one_by_one`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from distredge.latency.kernel.kernel import Unsupported
from distredge.latency.simulator.figures import Figures, measure
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import joined, take
from distredge.planners.budget import Budget
from distredge.planners.objectives import (
    Point,
    check_objective,
    infeasible,
    is_feasible,
    unbeaten,
    value,
    without_watts,
)
from distredge.planners.other_objectives import by_simulator
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.planners.other_objectives.aimed_search import Weights
    from distredge.planners.other_objectives.batch_figures import FiguresPricer
    from distredge.problem import Objective, Problem
    from distredge.strategy import Strategy

__all__ = ["Point", "front", "has_watts", "load", "pareto", "plan_for"]

AIMS: dict[Objective, Weights] = {
    "latency": (1.0, 0.0, 0.0),
    "throughput": (0.0, 1.0, 0.0),
    "energy": (0.0, 0.0, 1.0),
}
"""Weights of the logarithms of latency, period and energy."""

FASTEST: dict[Objective, float] = {"latency": 0.25, "throughput": 0.1, "energy": 0.1}
"""Share of the budget that goes to a search for the lowest latency, by objective."""

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

_log = logging.getLogger(__name__)


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
    from distredge.planners.other_objectives.aimed_search import Compromise

    pricer = load(problem, budget)
    objective = problem.objective
    plans, figures = Compromise(pricer, seed, [AIMS[objective]], 1, FASTEST[objective]).run()
    plans = plain(plans, figures, partial(pricer.figures, again=True), pricer.codec)
    if figures[0, 3] > 0:
        # Memory is priced from above: what nearly fits may fit.
        batch, alone = starts(pricer.codec)
        plans = joined([plans, take(batch, np.arange(alone))])
    strategies = [pricer.codec.strategy(plans, k, _planner(problem, seed)) for k in range(len(plans.cuts))]
    return [Point(strategy, measure(problem, strategy)) for strategy in strategies]


def pareto(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """Strategies of which none is better than another in latency, throughput and (where watts are known) energy.

    Limits hold as in `plan_for`.

    Returns:
        By rising latency; at least one, at most `MOST_POINTS`.

    Raises:
        Infeasible: if nothing that was found meets the limits.
    """
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
    from distredge.planners.other_objectives.aimed_search import Compromise

    pricer = load(problem, budget)
    if has_watts(problem):
        shares = np.linspace(0.0, 1.0, BETWEEN)
        weights = [tuple((1.0 - s) * np.array(AIMS["throughput"]) + s * np.array(AIMS["energy"])) for s in shares]
        run = Compromise(pricer, seed, weights, RANGES, FASTEST_OF_FRONT)
    else:
        run = Compromise(pricer, seed, [AIMS["throughput"]], RANGES_OF_TWO, FASTEST_OF_FRONT)
    plans, figures = run.run()
    chosen = spread(figures[:, :3], MOST_POINTS)
    plans, figures = take(plans, chosen), figures[chosen]
    plans = plain(plans, figures, partial(pricer.figures, again=True), pricer.codec)
    strategies = [pricer.codec.strategy(plans, k, _planner(problem, seed, "pareto")) for k in range(len(chosen))]
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


def _planner(problem: Problem, seed: int, objective: str | None = None) -> PlannerRef:
    return PlannerRef("search", seed, {"objective": objective or problem.objective})


def has_watts(problem: Problem) -> bool:
    """Whether every profile of the cluster says what the board draws: otherwise energies do not compare."""
    return not without_watts(problem)


_loaded: list[bool] = []


def load(problem: Problem, budget: Budget) -> FiguresPricer:
    """Loads the compiled code, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    with budget.paused():
        from distredge.planners import search
        from distredge.planners.other_objectives.batch_figures import FiguresPricer

        search.load(problem, budget)
        pricer = FiguresPricer(Codec(problem), budget)
        if not _loaded:
            from distredge.planners.annealing import compiled_steps
            from distredge.planners.other_objectives import compiled_aims

            if not compiled_steps.is_cached(compiled_aims.anneal_figures):
                _log.warning(
                    "compiling the search for other objectives, once: some 20 seconds (`distredge doctor` does it "
                    "beforehand)"
                )
            codec = pricer.codec
            batch = codec.empty(1)
            batch.cuts[0, 0] = codec.candidates[-1]
            batch.rows[0, 0, 1:] = codec.choices.heights[codec.candidates[-1]]
            FiguresPricer(codec, Budget(evaluations=1)).figures(batch)
            _loaded.append(True)
    return pricer
