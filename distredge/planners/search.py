"""`search`: local search over partition points, cut points and the head device (ours).

Rule: start from the best single device, from equal shares and from shares by speed, each as one volume and as a volume
per few layers; then change one thing at a time (a device border in a run of neighbouring volumes, a partition point, an
empty share, the head device) and keep what is not slower; after a stretch without gain restart from a disturbed copy of
the best. Anytime: it returns the best that it has met when the budget ends or the user interrupts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from distredge.model.rows import even_cuts, proportional_cuts
from distredge.planners.common import build, price, volume, whole_on
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_PATIENCE = 60


@dataclass(frozen=True)
class _State:
    """Partition scheme, cut points of every volume and the head device."""

    cuts: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    head: int


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy that the budget allows."""
    return _Search(problem, budget, seed).run()


class _Search:
    def __init__(self, problem: Problem, budget: Budget, seed: int) -> None:
        self.problem = problem
        self.budget = budget
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.heights = [cut.height for cut in problem.graph.cuts]
        self.count = len(problem.cluster.devices)
        self.best: tuple[float, _State] | None = None

    def run(self) -> Strategy:
        try:
            self._climb_all()
        except KeyboardInterrupt:
            self.budget.interrupt()
        if self.best is None:
            raise KeyboardInterrupt
        return self._strategy(self.best[1])

    def _climb_all(self) -> None:
        starts = self._starts()
        priced = sorted(((self._price(s), i) for i, s in enumerate(starts)))
        current_s, state = priced[0][0], starts[priced[0][1]]
        idle = 0
        while not self.budget.expired():
            candidate = self._move(state)
            latency_s = self._price(candidate)
            idle = 0 if latency_s < current_s else idle + 1
            if latency_s <= current_s:
                current_s, state = latency_s, candidate
            if idle > _PATIENCE:
                assert self.best is not None
                state = self.best[1]
                for _ in range(3):
                    state = self._move(state)
                current_s, idle = self._price(state), 0

    def _price(self, state: _State) -> float:
        latency_s = price(self.problem, self._strategy(state), self.budget)
        if self.best is None or latency_s < self.best[0]:
            self.best = (latency_s, state)
        return latency_s

    def _strategy(self, state: _State) -> Strategy:
        graph, names = self.problem.graph, self.problem.cluster.names
        volumes = [volume(graph.cuts[c], rows) for c, rows in zip(state.cuts, state.rows, strict=True)]
        return build(self.problem, names, volumes, names[state.head], PlannerRef("search", self.seed))

    def _starts(self) -> list[_State]:
        last = len(self.heights) - 1
        alone = [whole_on(self.problem, name, PlannerRef("offload")) for name in self.problem.cluster.names]
        seconds = [price(self.problem, strategy, self.budget) for strategy in alone]
        fastest = int(np.argmin(seconds))
        starts = [self._shared((last,), [float(k == fastest) for k in range(self.count)], fastest)]
        for step in (last + 1, 6, 3, 1):
            cuts = tuple(sorted({*range(step - 1, last, step), last}))
            starts.append(self._shared(cuts, [1.0 / s for s in seconds], fastest))
        rows = even_cuts(self.heights[last], self.count)
        starts.append(_State((last,), (rows,), fastest))
        return starts

    def _shared(self, cuts: tuple[int, ...], weights: list[float], head: int) -> _State:
        return _State(cuts, tuple(proportional_cuts(self.heights[c], weights) for c in cuts), head)

    def _move(self, state: _State) -> _State:
        kind = self.rng.random()
        if self.count == 1:
            return self._move_partition(state)
        if kind < 0.6:
            return self._move_border(state)
        if kind < 0.9:
            return self._move_partition(state)
        if kind < 0.95:
            return replace(state, head=int(self.rng.integers(self.count)))
        return self._empty_share(state)

    def _window(self, state: _State) -> range:
        """A run of neighbouring volumes: their borders move together, so that owners stay where the rows are."""
        size = len(state.cuts)
        first = int(self.rng.integers(size))
        return range(first, int(self.rng.integers(first, size)) + 1)

    def _move_border(self, state: _State) -> _State:
        border = int(self.rng.integers(1, self.count))
        step = float(self.rng.normal(0.0, 0.08))
        rows = list(state.rows)
        for v in self._window(state):
            height = self.heights[state.cuts[v]]
            shift = round(step * height) or (1 if step > 0 else -1)
            rows[v] = _shifted(rows[v], border, shift)
        return replace(state, rows=tuple(rows))

    def _empty_share(self, state: _State) -> _State:
        device = int(self.rng.integers(self.count))
        rows = list(state.rows)
        for v in self._window(state):
            x = list(rows[v])
            if device + 1 < self.count:
                x[device + 1] = x[device]
            else:
                x[device] = x[device + 1]
            rows[v] = tuple(np.maximum.accumulate(x).tolist()) if device + 1 < self.count else tuple(x)
        return replace(state, rows=tuple(rows))

    def _move_partition(self, state: _State) -> _State:
        inner = len(self.heights) - 1
        if inner == 0:
            return state
        cut = int(self.rng.integers(inner))
        rows_of = dict(zip(state.cuts, state.rows, strict=True))
        if cut in rows_of:
            del rows_of[cut]
        else:
            after = next(c for c in state.cuts if c > cut)
            if self.rng.random() < 0.5 and after != inner:
                rows_of.pop(after)
                source = state.rows[state.cuts.index(after)]
            else:
                source = rows_of[after]
            rows_of[cut] = tuple(x * self.heights[cut] // self.heights[after] for x in source)
        cuts = tuple(sorted(rows_of))
        return replace(state, cuts=cuts, rows=tuple(rows_of[c] for c in cuts))


def _shifted(rows: tuple[int, ...], border: int, shift: int) -> tuple[int, ...]:
    """Moves one border and pushes those that it meets."""
    height = rows[-1]
    target = min(height, max(0, rows[border] + shift))
    moved = [min(x, target) if i < border else max(x, target) for i, x in enumerate(rows)]
    moved[0], moved[border], moved[-1] = 0, target, height
    return tuple(moved)
