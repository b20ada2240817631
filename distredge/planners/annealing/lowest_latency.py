"""The search for the lowest latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Infeasible
from distredge.planners.annealing.batch_pricing import advance
from distredge.planners.annealing.chains import make_chains, resample
from distredge.planners.annealing.loading import load
from distredge.planners.annealing.pace import CHAINS, POPULATIONS, STEPS, adapted
from distredge.planners.annealing.polishing import polish
from distredge.planners.annealing.starts import best_rows, shuffled, starts
from distredge.planners.annealing.strategy_arrays import joined, put, take
from distredge.processors import usable_cores
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.annealing.chains import Chains
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

    Found = tuple[Batch, NDArray[np.float64]]
    """Strategies and their latencies."""

HOT, COLD = 0.03, 0.0003
"""First and last temperature of the middle chain, relative to the latency."""

RUN, BRANCHES = 500_000, 6
"""Evaluations of a run, about (half of it where groups of groups are combined), and how many are combined by one
more."""

MERGING, MERGING_HOT, MERGED = 0.2, 0.005, 8
"""Share of the budget of some runs that goes to combining them (of a group's again, where groups are combined), its
first temperature, and strategies that each run gives to it."""

PILOT = 0.03
"""Share of a budget in seconds after which the pace, and with it the number of runs, is known."""

GIVEN = 0.25
"""Share of the chains of a run that begin from strategies of others, where there are any."""

SHORT_S, STARTING, STARTS_AT_ONCE, MOST_POLISHED = 0.02, 0.25, 64, 16
"""Seconds of a budget up to which a search is but to price starts and to polish the best, the share of it that pricing
them may take, how many are priced between two looks at it, and how many are polished."""

SPREAD = 4.0
"""Temperature of the hottest and the coldest chain, relative to the middle one."""

ORDERS = 12
"""Random orders of the devices that each start is tried in, where they are free."""

RESAMPLE_EVERY = 0.04
"""Share of a run after which the worst chains are replaced."""

NEARBY_UNTIL = 0.7
"""Share of a run up to which rates of shared links are approximate."""


class Search:
    """One run of the search for the lowest latency.

    Args:
        problem: model and cluster.
        budget: what may be spent.
        seed: of all random choices.
        threads: None takes what the process may use.
        more_starts: makes strategies of others, given a pricer of the problem; they join the search's own starts, and a
            part of the chains begins from them in every run.

    Raises:
        Unsupported: if only the simulator prices this problem.
    """

    def __init__(
        self,
        problem: Problem,
        budget: Budget,
        seed: int,
        threads: int | None = None,
        more_starts: Callable[[BatchPricer], Batch] | None = None,
    ) -> None:
        self.budget = budget
        self.seed = seed
        self.threads = min(POPULATIONS, usable_cores()) if threads is None else threads
        self.pricer = load(problem, budget)
        self.codec: Codec = self.pricer.codec
        self.latency_s = float("inf")
        self._more_starts = more_starts
        self._short = budget.seconds is not None and budget.seconds <= SHORT_S
        self._chains: list[Chains] = []
        self._ended: list[Found] = []
        self._streams = 0
        self._nearby = False

    def run(self) -> Strategy:
        """Returns the best strategy that was met.

        Raises:
            Infeasible: if no device can be reached.
        """
        return self.best(1)[0]

    def best(self, count: int) -> list[Strategy]:
        """Returns the best strategies of as many chains, the best first.

        Raises:
            Infeasible: if no device can be reached.
        """
        from distredge.planners.annealing.batch_pricing import plain

        self.pricer.fill()
        self._begin()
        try:
            if self._short:
                self._improve()
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    self._search(pool)
        except KeyboardInterrupt:
            self.budget.interrupt()
        found = joined([*(batch for batch, _ in self._ended), *(chains.best for chains in self._chains)])
        seconds = self.pricer.price(found, again=True)
        order = np.argsort(seconds, kind="stable")[:count]
        self.latency_s = float(seconds[order[0]])
        plans = plain(take(found, order), seconds[order, None], self._price_again, self.codec)
        return [self.codec.strategy(plans, k, PlannerRef("search", self.seed)) for k in range(len(order))]

    def _price_again(self, batch: Batch) -> NDArray[np.float64]:
        return self.pricer.price(batch, again=True)[:, None]

    @property
    def best_s(self) -> float:
        """The lowest latency met so far; approximate as long as rates of shared links are."""
        now = min(chains.best_s.min() for chains in self._chains)
        return float(min([now, *(seconds.min() for _, seconds in self._ended)]))

    def _begin(self) -> None:
        """Prices the starts, keeps the best, and makes chains of them."""
        batch, seconds, given = self._priced_starts()
        own = slice(given, None)
        size = POPULATIONS * CHAINS
        if given:
            # The best of others go into the coolest chains, which keep what is good about them.
            others = best_rows(seconds[:given], round(GIVEN * size))
            chosen = np.concatenate([others, given + best_rows(seconds[own], size - len(others))])
        else:
            chosen = best_rows(seconds, size)
        if len(chosen) == 0:
            raise Infeasible(f"no device of cluster '{self.codec.problem.cluster.name}' can be reached")
        self._starts = take(batch, chosen), seconds[chosen]
        if not self._short:
            self._restart()

    def _priced_starts(self) -> tuple[Batch, NDArray[np.float64], int]:
        """Strategies to start from and their latencies: those of others, single devices, and as many as there is time.

        Returns:
            The strategies, their latencies in seconds, (n,), and how many at the beginning are of others.
        """
        budget, before_s = self.budget, self.budget.elapsed_s
        own, alone = starts(self.codec)
        given = 0
        if self._more_starts is not None:
            others = self._more_starts(self.pricer)
            given = len(others.cuts)
            own = joined([others, own])
        left, first = budget.left, given + alone
        count = len(own.cuts) if left is None else min(len(own.cuts), max(first, left))
        if budget.seconds is None or not self._short:
            batch = take(own, np.arange(count))
            return batch, self.pricer.price(batch), given
        # Those to come in such an order that the first of them are of all kinds.
        rest = np.random.default_rng(0).permutation(np.arange(first, count))
        order = np.concatenate([np.arange(first), rest])
        found = [self.pricer.price(take(own, order[:first]))]
        at = first
        while at < count and budget.elapsed_s - before_s < STARTING * budget.seconds:
            found.append(self.pricer.price(take(own, order[at : at + STARTS_AT_ONCE])))
            at += STARTS_AT_ONCE
        return take(own, order[: min(at, count)]), np.concatenate(found), given

    def _improve(self) -> None:
        """What there is time for in some milliseconds: the best starts, polished."""
        batch, seconds = self._starts
        self._ended.append(
            polish(
                self.pricer, take(batch, np.arange(min(len(seconds), MOST_POLISHED))), self.budget, self.seed, MERGED
            )
        )

    def _restart(self) -> None:
        """Makes chains of the best starts."""
        batch, seconds = self._starts
        self._chain(*self._reordered(take(batch, np.arange(len(seconds))), seconds.copy()))
        self.budget.report(self.best_s)

    def _chain(self, batch: Batch, seconds: NDArray[np.float64]) -> None:
        """Makes chains of some strategies; the first are in the coolest ones."""
        made = []
        for p in range(POPULATIONS):
            mine = slice(p, None, POPULATIONS)
            made.append(make_chains(take(batch, mine), seconds[mine], self.seed, self._streams + p))
        self._streams += POPULATIONS
        self._chains = made

    def _reordered(self, batch: Batch, seconds: NDArray[np.float64]) -> tuple[Batch, NDArray[np.float64]]:
        """Strategies with their devices in the best of some random orders, where the problem leaves that free."""
        left, count = self.budget.left, ORDERS * len(seconds)
        if not self.codec.choices.free_order or len(set(self.codec.choices.kinds)) < 2 or (left or count) < count:
            return batch, seconds
        rng = np.random.default_rng((self.seed, self._streams))
        for _ in range(ORDERS):
            other = shuffled(batch, rng)
            found = self.pricer.price(other)
            better = np.flatnonzero(found < seconds)
            put(other, batch, better)
            seconds[better] = found[better]
        return batch, seconds

    def _search(self, pool: ThreadPoolExecutor) -> None:
        """Makes as many runs as the budget allows."""
        budget, begun = self.budget, self.budget.spent()
        if budget.seconds is None:
            expected = float(budget.left or 0)
        else:
            done, before_s, left_s = budget.done, budget.elapsed_s, budget.left_s or 0.0
            # The first run goes on from here.
            self._anneal(pool, HOT, begun, 1.0, begun + PILOT)
            expected = (budget.done - done) / max(budget.elapsed_s - before_s, 1e-9) * left_s
            if budget.left is not None:
                expected = min(expected, budget.left)
        self._combine(pool, max(1, round((1.0 - MERGING) * expected / RUN)), begun, 1.0)

    def _combine(self, pool: ThreadPoolExecutor, runs: int, begin: float, end: float) -> None:
        """Makes runs in a part of the budget, given by shares at its begin and end, and one more of what they found."""
        found: list[Found] = []
        if runs == 1:
            if self._ended and self.budget.spent() < end:
                self._restart()
            self._anneal(pool, HOT, begin, end)
        else:
            parts, first = min(runs, BRANCHES), len(self._ended)
            share = (1.0 - MERGING) * (end - begin) / parts
            for part in range(parts):
                made = runs // parts + (part < runs % parts)
                self._combine(pool, made, begin + part * share, begin + (part + 1) * share)
                found.append(self._ended[-1])
            # At once, so that an interrupt finds the one or the other.
            self._ended[first:] = found
            batch, seconds = _ranked(found, POPULATIONS * CHAINS)
            self._chain(batch, seconds)
            self._anneal(pool, MERGING_HOT, begin + parts * share, end)
        self._ended.append(self._best_of(found, MERGED))

    def _best_of(self, found: list[Found], count: int) -> Found:
        """The best of the chains and of what they began from, the best first.

        Under approximate rates of shared links a chain may have left what is better under exact ones.
        """
        batch = joined([*(batch for batch, _ in found), *(chains.best for chains in self._chains)])
        seconds = np.concatenate([*(seconds for _, seconds in found), *(chains.best_s for chains in self._chains)])
        order = np.argsort(seconds, kind="stable")[:count]
        return take(batch, order), seconds[order]

    def _anneal(self, pool: ThreadPoolExecutor, hot: float, begin: float, end: float, until: float = 1.0) -> None:
        """Cools the chains down from one share of the budget to another one, or to where it is to break off."""
        budget, total = self.budget, POPULATIONS * CHAINS
        spread = np.geomspace(1.0 / SPREAD, SPREAD, CHAINS)
        steps, resampled = STEPS if budget.seconds is None else 1, 0.0
        self._nearby = self.pricer.shared
        while not budget.expired() and (budget.left is None or budget.left >= total):
            spent, before_s = (budget.spent() - begin) / (end - begin), budget.elapsed_s
            if spent >= 1.0 or budget.spent() >= until:
                break
            for chains in self._chains:
                chains.heat[:] = spread * hot * (COLD / hot) ** spent
            if self._nearby and spent > NEARBY_UNTIL:
                self._price_exactly()
            if spent - resampled > RESAMPLE_EVERY:
                resampled = spent
                for chains in self._chains:
                    resample(chains)
            count = steps if budget.left is None else min(steps, budget.left // total)
            wanted = self._advance(pool.map, count)
            if budget.seconds is not None:
                steps = adapted(steps, budget.elapsed_s - before_s, budget.left_s, budget.seconds)
            budget.spend(count * total)
            budget.report(self.best_s)
            self.pricer.tabulate(wanted)

    def _advance(self, run_all: Callable[..., Iterable[Any]], steps: int) -> NDArray[np.int64]:
        """Takes steps in all populations and returns which volumes were missing."""
        one = partial(advance, self.pricer, self.pricer.pricing(CHAINS, self._nearby), steps)
        return np.asarray(sum(run_all(one, self._chains)))

    def _price_exactly(self) -> None:
        """Goes over to exact rates of shared links."""
        self._nearby = False
        for chains in self._chains:
            chains.seconds[:] = self.pricer.price(chains.current, again=True)
            chains.saved_s[:] = self.pricer.price(chains.saved, again=True)
            chains.best_s[:] = self.pricer.price(chains.best, again=True)


def _ranked(found: list[Found], count: int) -> Found:
    """The best of each of several sets (each the best first), then the second of each, and so on, over and over."""
    batch, seconds = joined([batch for batch, _ in found]), np.concatenate([seconds for _, seconds in found])
    ranks = np.concatenate([np.arange(len(seconds)) for _, seconds in found])
    order = np.resize(np.lexsort((seconds, ranks)), count)
    return take(batch, order), seconds[order]
