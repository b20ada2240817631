"""Search for other objectives than latency, under limits, and the front between objectives.

The same moves as in `search`, priced one by one from the strategy's layout: some hundred strategies a second instead of
some million. It starts from what `search` finds for latency, from a pipeline, and from shares by speed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import PlannerError
from distredge.latency.kernel import Unsupported
from distredge.planners.batch import take
from distredge.planners.budget import Budget
from distredge.planners.codec import Codec
from distredge.planners.figures import Figures, infeasible, is_feasible, measure, value
from distredge.planners.search import Search
from distredge.planners.starts import best_rows, starts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.problem import Objective, Problem
    from distredge.strategy import Strategy

_STARTS, _FASTEST = 24, 12
_FASTEST_SHARE = {"latency": 0.7, "throughput": 0.25, "energy": 0.25}
"""Share of the budget that goes to a search for the lowest latency, by objective."""

_PATIENCE = 40
_UNCOUNTED = 10**12


@dataclasses.dataclass(frozen=True)
class Point:
    """A strategy with its figures."""

    strategy: Strategy
    figures: Figures


def plan_for(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy for the problem's objective under its limits.

    Raises:
        Infeasible: if nothing that was found meets the limits; says what came closest.
        PlannerError: if energy is asked for and no profile has watts.
    """
    if problem.objective == "energy" and not has_watts(problem):
        raise PlannerError(
            f"energy: no profile of cluster '{problem.cluster.name}' says idle and busy watts; "
            "the objectives latency and throughput need none"
        )
    found = explore(problem, budget, seed)
    best = min(found, key=lambda point: value(problem, point.figures))
    if not is_feasible(value(problem, best.figures)):
        raise infeasible(problem, best.figures)
    return best.strategy


def pareto(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """Strategies of which none is better than another in latency, throughput and (where watts are known) energy.

    An equal part of the budget goes to each objective. Limits hold as in `plan_for`.

    Returns:
        By rising latency; at least one.

    Raises:
        Infeasible: if nothing that was found meets the limits.
    """
    objectives: list[Objective] = ["latency", "throughput"]
    if has_watts(problem):
        objectives.append("energy")
    found: list[Point] = []
    for number, objective in enumerate(objectives):
        if found and budget.expired():
            break
        part = budget.share(1.0 / (len(objectives) - number))
        found += explore(dataclasses.replace(problem, objective=objective), part, seed)
    feasible = [point for point in found if is_feasible(value(problem, point.figures))]
    if not feasible:
        raise infeasible(problem, min(found, key=lambda point: value(problem, point.figures)).figures)
    return front(feasible)


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


def explore(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """Every strategy that was an improvement on its way, for one objective."""
    walk = _Walk(problem, budget, seed)
    try:
        walk.run()
    except KeyboardInterrupt:
        budget.interrupt()
    if not walk.found:
        raise KeyboardInterrupt
    return walk.found


class _Walk:
    """Iterated local search on one strategy at a time."""

    def __init__(self, problem: Problem, budget: Budget, seed: int) -> None:
        self.problem = problem
        self.budget = budget
        self.seed = seed
        self.codec = Codec(problem)
        self.found: list[Point] = []
        self.best = math.inf

    def run(self) -> None:
        """Walks until the budget ends; what improved stands in `found`."""
        rng = np.random.default_rng(self.seed)
        states = rng.integers(1, 2**63, 1, dtype=np.uint64)
        with self.budget.paused():
            # What is compiled must be loaded, or compiled first: that is no planning.
            from distredge.planners.anneal import change

            first, _ = starts(self.codec)
            change(states.copy(), take(first, [0]), self.codec.choices)
        self._price_starts()
        values = np.array([value(self.problem, point.figures) for point in self.found])
        origins = [self.codec.encode([self.found[k].strategy]) for k in best_rows(values, 3)]
        if not origins:
            raise infeasible(self.problem, Figures(math.inf))
        current, current_value, idle = origins[0], self.best, 0
        best = origins[0]
        while not self.budget.expired():
            proposed = take(current, [0])
            change(states, proposed, self.codec.choices)
            before = self.best
            found = self._price(self.codec.strategy(proposed, 0, self._planner()))
            if found <= before:
                best = proposed
            idle = 0 if found < before * (1 - 1e-9) else idle + 1
            if found <= current_value:
                current, current_value = proposed, found
            if idle > _PATIENCE:
                current = best if rng.random() < 0.7 else origins[rng.integers(len(origins))]
                current_value, idle = math.inf, 0

    def _price_starts(self) -> None:
        """Prices what is known to be good for something: single devices, a pipeline, shares by speed."""
        batch, alone = starts(self.codec)
        planner = self._planner()
        made = [self.codec.strategy(batch, k, planner) for k in range(alone)]
        made += self._pipeline()
        made += self._fastest()
        step = max(1, (len(batch.cuts) - alone) // _STARTS)
        made += [self.codec.strategy(batch, k, planner) for k in range(alone, len(batch.cuts), step)]
        for number, strategy in enumerate(made):
            if number >= alone and self.budget.expired():
                break
            self._price(strategy.replace(planner=planner), keep=True)

    def _fastest(self) -> list[Strategy]:
        """What the search for the lowest latency finds, where the kernel prices the problem."""
        problem = dataclasses.replace(self.problem, objective="latency", latency_limit_s=None)
        budget = self.budget.share(_FASTEST_SHARE[self.problem.objective])
        try:
            found = Search(problem, budget, self.seed).best(_FASTEST)
        except Unsupported:
            return []
        return list({strategy.to_json(): strategy for strategy in found}.values())

    def _pipeline(self) -> list[Strategy]:
        from distredge.planners import pico

        problem = dataclasses.replace(self.problem, latency_limit_s=None)
        made: list[Strategy] = []
        with contextlib.suppress(PlannerError):
            made.append(pico.plan(problem, Budget(evaluations=_UNCOUNTED), self.seed))
        return [strategy for strategy in made if self.codec.fits(strategy)]

    def _planner(self) -> PlannerRef:
        return PlannerRef("search", self.seed, {"objective": self.problem.objective})

    def _price(self, strategy: Strategy, keep: bool = False) -> float:
        figures = measure(self.problem, strategy, self.budget)
        found = value(self.problem, figures)
        if keep or found < self.best:
            self.found.append(Point(strategy, figures))
            self.budget.report(figures.latency_s)
        self.best = min(self.best, found)
        return found


def has_watts(problem: Problem) -> bool:
    """Whether any profile of the cluster says what the board draws."""
    return any(d.profile.idle_w is not None and d.profile.busy_w is not None for d in problem.cluster.devices)
