"""Annealing for other objectives than latency, under limits, and for the front between objectives (ours).

The chains and moves of `planners.annealing`, in a compiled loop that knows latency, period, energy and memory of every
strategy (`compiled_aims`). For one objective all chains are after the same. For a front each has an aim of its own: the
least period, the least energy, or something between, under one of many bounds on the latency between the fastest
strategy known and the ones that are best in the others. Everything that is met is offered to shelves by range of
latency and weights, so that what one chain passes on its way counts for the others; from time to time shelves are
brought together, bounds are set anew, and chains far behind what stands on the shelves go on from there.
"""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Infeasible, PlannerError
from distredge.planners.annealing.chains import make_chains
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.annealing.pace import CHAINS, POPULATIONS, STEPS, adapted
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import Batch, joined, put, take
from distredge.planners.budget import Budget
from distredge.planners.objectives import unbeaten
from distredge.planners.other_objectives.batch_figures import empty_shelves
from distredge.planners.other_objectives.figure_arrays import EXCESS, FIGURES, LATENCY, PERIOD, Aims, Shelves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distredge.planners.annealing.chains import Chains
    from distredge.planners.other_objectives.batch_figures import FiguresPricer

HOT, COLD = 0.03, 0.0003
"""First and last temperature of the middle chain, relative to what its strategy is worth."""

SPREAD, SPREAD_OF_FRONT = 10.0, 4.0
"""How much hotter and colder than the middle one others are, where all have one aim and where each has its own."""

ROUNDS = 25
"""How often shelves are brought together."""

BEHIND = 0.125
"""Share of the chains that go on from the shelves when these are brought together."""

TIE, SLOPE = 1e-6, 1e-3
"""Weight of the latency beside the others on shelves, where it tells those apart that are equal, and for chains, which
it leads on where the busiest device or link stays the same."""

FASTEST = 12
"""Strategies of the lowest latency to start from."""

PRICING = 0.25
"""Share of a budget in seconds after which no more strategies to start from are priced where memory counts."""

_UNCOUNTED = 10**12

Floats = NDArray[np.float64]
Weights = tuple[float, float, float]
"""Of the logarithms of latency, period and energy."""


class AimedSearch:
    """One run of the search.

    Args:
        pricer: of the problem.
        seed: of all random choices.
        weights: aims; each weighs the logarithms of latency, period and energy.
        ranges: ranges of latency in which the best for each of the weights is wanted.
        fastest: share of the budget for a search for the lowest latency.
    """

    def __init__(
        self, pricer: FiguresPricer, seed: int, weights: Sequence[Weights], ranges: int, fastest: float
    ) -> None:
        self.pricer = pricer
        self.codec = pricer.codec
        self.budget = pricer.budget
        self.seed = seed
        self.weights = _with_latency(np.array(weights, np.float64), TIE)
        self.ranges = ranges
        self.fastest = fastest
        limit_s = self.codec.problem.latency_limit_s
        # Rounding must not lift what is kept above the limit.
        self.limit = math.inf if limit_s is None else math.log(limit_s * (1 - 1e-9))
        self.pool, self.figures = self.codec.empty(0), np.zeros((0, FIGURES))
        self._chains: list[Chains] = []
        self._aims: list[Aims] = []
        self._shelves: list[Shelves] = []

    def run(self) -> tuple[Batch, Floats]:
        """Searches until the budget ends or the user interrupts.

        Returns:
            The best strategies met, none beaten by another one in latency, period and energy, and their figures,
            (N, FIGURES); if none is within the limits, what came closest.

        Raises:
            Infeasible: if no device can be reached.
        """
        self._begin()
        try:
            self._anneal()
        except KeyboardInterrupt:
            self.budget.interrupt()
        self._gather()
        return self.pool, self.figures

    def _begin(self) -> None:
        """Prices what is known to be good for something."""
        self.pricer.fill()
        batch, alone = starts(self.codec)
        left = self.budget.left
        batches = [take(batch, np.arange(len(batch.cuts) if left is None else min(len(batch.cuts), max(alone, left))))]
        try:
            batches.append(self._fastest())
            batches.append(self._pipeline())
        except KeyboardInterrupt:
            self.budget.interrupt()
        batch, figures = self._priced(joined(batches))
        known = np.flatnonzero(np.isfinite(figures[:, LATENCY]))
        if len(known) == 0:
            raise Infeasible(f"no device of cluster '{self.codec.problem.cluster.name}' can be reached")
        batch, figures = take(batch, known), figures[known]
        self._keep(batch, figures)
        self._aims = self._aimed()
        logs = _logarithms(figures)
        for p in range(POPULATIONS):
            values = _worth(logs, figures[:, EXCESS], self._aims[p])
            chosen = self._chosen(values, p)
            worth = np.exp(values[chosen, np.arange(CHAINS)])
            self._chains.append(make_chains(take(batch, chosen), worth, self.seed, p))
        self._shelves = [self._shelved() for _ in range(POPULATIONS)]

    def _priced(self, batch: Batch) -> tuple[Batch, Floats]:
        """Strategies with their figures, those of few volumes first, as many as a part of the budget allows.

        Where memory counts every volume takes some milliseconds to tabulate.
        """
        budget, before_s = self.budget, self.budget.elapsed_s
        volumes = (batch.cuts >= 0).sum(axis=1)
        groups = [np.flatnonzero(volumes == count) for count in np.unique(volumes)]
        if not self.pricer.limited:
            groups = [np.arange(len(volumes))]
        found: list[Floats] = []
        for chosen in groups:
            if found and budget.seconds is not None and budget.elapsed_s - before_s > PRICING * budget.seconds:
                break
            found.append(self.pricer.figures(take(batch, chosen)))
        return take(batch, np.concatenate(groups[: len(found)])), np.concatenate(found)

    def _chosen(self, values: Floats, p: int) -> NDArray[np.int64]:
        """Which start each chain of a population takes: the best for its aim, or all different where aims are one."""
        if self.ranges > 1:
            return np.asarray(np.argmin(values, axis=0))
        order = np.argsort(values[:, 0], kind="stable")
        return np.resize(order[p::POPULATIONS] if len(order) >= POPULATIONS else order, CHAINS)

    def _fastest(self) -> Batch:
        """What the search for the lowest latency finds."""
        search = Search(self.codec.problem, self.budget.share(self.fastest), self.seed)
        return self.codec.encode(search.best(FASTEST))

    def _pipeline(self) -> Batch:
        from distredge.planners.published import pico

        if self.budget.expired() or not self.weights[:, PERIOD].any():
            return self.codec.empty(0)
        problem = dataclasses.replace(self.codec.problem, latency_limit_s=None)
        try:
            made = pico.plan(problem, Budget(evaluations=_UNCOUNTED), self.seed)
        except PlannerError:
            return self.codec.empty(0)
        return self.codec.encode([made] if self.codec.fits(made) else [])

    def _anneal(self) -> None:
        self._report()
        budget, total = self.budget, POPULATIONS * CHAINS
        begun = budget.spent()
        most = SPREAD_OF_FRONT if self.ranges > 1 else SPREAD
        # Neighbours, which have neighbouring aims, differ much.
        spread = np.geomspace(1.0 / most, most, CHAINS)[np.arange(CHAINS) * 13 % CHAINS]
        steps, gathered = STEPS if budget.seconds is None else 1, begun
        with ThreadPoolExecutor(POPULATIONS) as pool:
            while not budget.expired() and (budget.left is None or budget.left >= total):
                before_s = budget.elapsed_s
                done = (budget.spent() - begun) / (1.0 - begun)
                if budget.spent() - gathered > (1.0 - begun) / ROUNDS:
                    gathered = budget.spent()
                    self._renew()
                for chains in self._chains:
                    chains.heat[:] = spread * HOT * (COLD / HOT) ** done
                count = steps if budget.left is None else min(steps, budget.left // total)
                wanted = sum(pool.map(partial(self._advance, count), range(POPULATIONS)), np.zeros((), np.int64))
                if budget.seconds is not None:
                    steps = adapted(steps, budget.elapsed_s - before_s, budget.left_s)
                budget.spend(count * total)
                self._report()
                self.pricer.tabulate(wanted)

    def _advance(self, steps: int, p: int) -> NDArray[np.int64]:
        """Takes steps in one population and returns which volumes were missing."""
        return self.pricer.advance(steps, self._chains[p], np.empty((CHAINS, FIGURES)), self._aims[p], self._shelves[p])

    def _report(self) -> None:
        """Shows the lowest latency that is allowed and has been met."""
        for shelves in self._shelves:
            self.budget.report(float(shelves.figures[:-1, LATENCY].min(initial=math.inf)))

    def _gather(self) -> None:
        """Brings what stands on all shelves into the pool."""
        for shelves in self._shelves:
            met = np.flatnonzero(np.isfinite(shelves.worth))
            self._keep(
                joined([self.pool, take(shelves.plans, met)]), np.concatenate([self.figures, shelves.figures[met]])
            )

    def _keep(self, batch: Batch, figures: Floats) -> None:
        """Keeps of some strategies those that no other one beats; if none is within the limits the nearest."""
        beyond = np.maximum(0.0, np.log(figures[:, LATENCY]) - self.limit) + figures[:, EXCESS]
        allowed = np.flatnonzero(beyond <= 0.0)
        if len(allowed):
            chosen = allowed[unbeaten(figures[allowed, :3] if self.ranges > 1 else self._objective(figures[allowed]))]
        else:
            chosen = np.argsort(beyond, kind="stable")[:1]
        self.pool, self.figures = take(batch, chosen), figures[chosen]

    def _objective(self, figures: Floats) -> Floats:
        return np.asarray(_logarithms(figures) @ self.weights[:1].T)

    def _renew(self) -> None:
        """Sets aims and shelves anew, and lets the chains that are furthest behind go on from the pool."""
        self._gather()
        self._aims = self._aimed()
        logs, excess = _logarithms(self.figures), self.figures[:, EXCESS]
        behind: list[Floats] = []
        better: list[tuple[NDArray[np.int64], Floats]] = []
        for chains, aims in zip(self._chains, self._aims, strict=True):
            figures = self.pricer.figures(chains.current, again=True)
            own = _worth(_logarithms(figures), figures[:, EXCESS], aims).diagonal()
            values = _worth(logs, excess, aims)
            chosen = np.argmin(values, axis=0)
            least = values[chosen, np.arange(CHAINS)]
            behind.append(own - least)
            better.append((chosen, np.exp(least)))
            chains.seconds[:] = np.exp(own)
            # What was on trial was so for another aim.
            chains.left[:] = 0
        bound = max(0.0, float(np.quantile(np.concatenate(behind), 1.0 - BEHIND)))
        for chains, lag, (chosen, value) in zip(self._chains, behind, better, strict=True):
            late = np.flatnonzero(lag > bound) if bound > 0 else np.flatnonzero(lag > 0)
            put(take(self.pool, chosen), chains.current, late)
            chains.seconds[late] = value[late]
            put(chains.current, chains.best, np.arange(CHAINS))
            chains.best_s[:] = chains.seconds
        self._shelves = [self._shelved() for _ in range(POPULATIONS)]

    def _bounds(self) -> tuple[float, float]:
        """Logarithms of the lowest latency of the pool, and of the one beyond which nothing gets better."""
        logs = np.log(self.figures[:, LATENCY])
        corners = [logs[np.argmin(_logarithms(self.figures) @ weights)] for weights in self.weights]
        first = float(logs.min())
        return first, max(first + 1e-3, float(max(corners)))

    def _aimed(self) -> list[Aims]:
        """Aims of each population's chains: each of the weights under bounds on the latency that rise evenly."""
        first, last = self._bounds()
        numbers = np.arange(POPULATIONS * CHAINS)
        which, place = numbers % len(self.weights), numbers // len(self.weights)
        limit = np.minimum(self.limit, first + (place + 1.0) / (place[-1] + 1.0) * (last - first))
        # The best of all latencies is wanted as well.
        limit[place == place[-1]] = self.limit
        if self.ranges == 1:
            limit[:] = self.limit
        return [
            Aims(_with_latency(self.weights, SLOPE)[which[p::POPULATIONS]], np.ascontiguousarray(limit[p::POPULATIONS]))
            for p in range(POPULATIONS)
        ]

    def _shelved(self) -> Shelves:
        """Shelves on which the pool stands."""
        first, last = self._bounds()
        step, count = (last - first) / self.ranges, len(self.weights)
        found = empty_shelves(self.codec, first, step, self.ranges, self.limit, self.weights)
        size = len(found.worth)
        logs = _logarithms(self.figures)
        beyond = np.maximum(0.0, logs[:, 0] - self.limit) + self.figures[:, EXCESS]
        places = np.clip(((logs[:, 0] - first) / step).astype(np.int64), 0, self.ranges - 1)
        for k in range(len(self.figures)):
            if beyond[k] > 0:
                targets, values = np.array([size - 1]), beyond[k : k + 1]
            else:
                targets, values = places[k] * count + np.arange(count), self.weights @ logs[k]
            better = targets[values < found.worth[targets]]
            found.worth[targets] = np.minimum(values, found.worth[targets])
            found.figures[better] = self.figures[k]
            pairs: Any = zip(found.plans, self.pool, strict=True)
            for array, source in pairs:
                array[better] = source[k]
        return found


def _with_latency(weights: Floats, share: float) -> Floats:
    """Weights of which a share goes to the latency."""
    return np.asarray((1.0 - share) * weights + share * np.array([1.0, 0.0, 0.0]))


def _logarithms(figures: Floats) -> Floats:
    """(N, 3) of latency, period and energy."""
    return np.log(np.maximum(figures[:, :3], 1e-30))


def _worth(logs: Floats, excess: Floats, aims: Aims) -> Floats:
    """(N, chains), as `compiled_aims.worth` for each chain."""
    from distredge.planners.other_objectives.compiled_aims import STEEP

    beyond = np.maximum(0.0, logs[:, :1] - aims.limit) + excess[:, None]
    return np.asarray(logs @ aims.weights.T + STEEP * beyond)
