"""Search for any objective where only the simulator prices a problem: one strategy at a time (ours).

The same moves as in `search`, each strategy priced from its layout: some hundred a second instead of some million. Used
for what the compiled kernel refuses: one medium for all under `independent` links.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import PlannerError
from distredge.latency.simulator.figures import Figures, measure
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.starts import best_rows, starts
from distredge.planners.annealing.strategy_arrays import take
from distredge.planners.budget import Budget
from distredge.planners.objectives import Point, infeasible, value
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

STARTS = 24
"""Shares by speed, over several partition schemes, to begin with."""

PATIENCE = 40
"""Changes without success after which the walk goes back to something better."""

_UNCOUNTED = 10**12


def explore(problem: Problem, budget: Budget, seed: int) -> list[Point]:
    """Every strategy that was an improvement on its way, for the problem's objective."""
    walk = _LocalSearch(problem, budget, seed)
    try:
        walk.run()
    except KeyboardInterrupt:
        budget.interrupt()
    if not walk.found:
        raise KeyboardInterrupt
    return walk.found


class _LocalSearch:
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
            from distredge.planners.annealing.compiled_steps import change

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
            found = self._price(self.codec.strategy(proposed, 0, self.planner_ref()))
            if found <= before:
                best = proposed
            idle = 0 if found < before * (1 - 1e-9) else idle + 1
            if found <= current_value:
                current, current_value = proposed, found
            if idle > PATIENCE:
                current = best if rng.random() < 0.7 else origins[rng.integers(len(origins))]
                current_value, idle = math.inf, 0

    def _price_starts(self) -> None:
        """Prices what is known to be good for something: single devices, a pipeline, shares by speed."""
        batch, alone = starts(self.codec)
        planner = self.planner_ref()
        made = [self.codec.strategy(batch, k, planner) for k in range(alone)]
        made += self._pipeline()
        step = max(1, (len(batch.cuts) - alone) // STARTS)
        made += [self.codec.strategy(batch, k, planner) for k in range(alone, len(batch.cuts), step)]
        for number, strategy in enumerate(made):
            if number >= alone and self.budget.expired():
                break
            self._price(strategy.replace(planner=planner), keep=True)

    def _pipeline(self) -> list[Strategy]:
        from distredge.planners.published import pico

        problem = dataclasses.replace(self.problem, latency_limit_s=None)
        made: list[Strategy] = []
        with contextlib.suppress(PlannerError):
            made.append(pico.plan(problem, Budget(evaluations=_UNCOUNTED), self.seed))
        return [strategy for strategy in made if self.codec.fits(strategy)]

    def planner_ref(self) -> PlannerRef:
        return PlannerRef("search", self.seed, {"objective": self.problem.objective})

    def _price(self, strategy: Strategy, keep: bool = False) -> float:
        self.budget.spend()
        figures = measure(self.problem, strategy)
        found = value(self.problem, figures)
        if keep or found < self.best:
            self.found.append(Point(strategy, figures))
            self.budget.report(figures.latency_s)
        self.best = min(self.best, found)
        return found
