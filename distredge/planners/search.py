"""`search`: annealing of many strategies at once on the compiled kernel (ours).

Rule. Partition points, cut points of every volume, head device and, where the problem lets them free, device order,
wires between volumes and boundary rows first are all decided together. Many chains start from shares by speed over
many partition schemes and subsets of the devices. Each step changes one thing in every chain (`planners.annealing.moves`: rows
of neighbouring volumes move together, so that owners stay where the rows are; interchangeable devices never change
places), and the kernel prices all of them; worse ones are taken with a probability that falls to the end of a run. Now
and then the worst chains are replaced by copies of the best, so that a run ends with all of them close to one strategy.
Which one is largely chance: as many short runs as the budget allows begin anew, and the best of several are the chains
of a last, cooler one, which combines them; with a large budget such groups are combined in the same way.

Anytime: the best that was met is returned when the budget ends or the user interrupts. With a budget in evaluations the
result depends on the seed alone, not on the number of threads. Other objectives than latency, and limits that only a
layout can tell, are in `planners.other_objectives.pareto`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Infeasible
from distredge.latency.kernel import kernel
from distredge.latency.simulator.figures import Figures
from distredge.planners.annealing.starts import best_rows, shuffled, starts
from distredge.planners.annealing.strategy_arrays import joined, put, take
from distredge.planners.objectives import infeasible, needs_figures
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.annealing.batch_pricing import Pricer
    from distredge.planners.annealing.compiled_steps import Chains
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

    Found = tuple[Batch, NDArray[np.float64]]
    """Strategies and their latencies."""

POPULATIONS, CHAINS = 2, 32
"""Populations of chains, each of which one thread advances, and chains of each."""

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

SPREAD = 4.0
"""Temperature of the hottest and the coldest chain, relative to the middle one."""

ORDERS = 12
"""Random orders of the devices that each start is tried in, where they are free."""

STEPS, ROUND_S = 100, 0.02
"""Steps between two looks at the budget, and the seconds that they may take where the budget is in seconds."""

RESAMPLE_EVERY = 0.04
"""Share of a run after which the worst chains are replaced."""

EXACT_UP_TO, NEARBY_UNTIL = 6, 0.7
"""Devices up to which rates of shared links are exact from the start, and the share of a run after which they are with
more of them."""

_log = logging.getLogger(__name__)


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy that the budget allows.

    Raises:
        Infeasible: if no strategy that was found meets the problem's limits.
    """
    if not needs_figures(problem):
        with contextlib.suppress(kernel.Unsupported):
            return _fastest(problem, budget, seed)
    from distredge.planners.other_objectives.pareto import plan_for

    return plan_for(problem, budget, seed)


def _fastest(problem: Problem, budget: Budget, seed: int) -> Strategy:
    search = Search(problem, budget, seed)
    strategy = search.run()
    if problem.latency_limit_s is not None and search.latency_s > problem.latency_limit_s:
        raise infeasible(problem, Figures(search.latency_s))
    return strategy


class Search:
    """One run of the search for the lowest latency.

    Args:
        problem: model and cluster.
        budget: what may be spent.
        seed: of all random choices.
        threads: None takes what the process may use.

    Raises:
        Unsupported: if only the simulator prices this problem.
    """

    def __init__(self, problem: Problem, budget: Budget, seed: int, threads: int | None = None) -> None:
        self.budget = budget
        self.seed = seed
        self.threads = min(POPULATIONS, _cores()) if threads is None else threads
        self.pricer = load(problem, budget)
        self.codec: Codec = self.pricer.codec
        self.latency_s = float("inf")
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
        """Prices the starts, single devices in any case, keeps the best, and makes chains of them."""
        batch, alone = starts(self.codec)
        left = self.budget.left
        count = len(batch.cuts) if left is None else min(len(batch.cuts), max(alone, left))
        batch = take(batch, np.arange(count))
        seconds = self.pricer.price(batch)
        chosen = best_rows(seconds, POPULATIONS * CHAINS)
        if len(chosen) == 0:
            raise Infeasible(f"no device of cluster '{self.codec.problem.cluster.name}' can be reached")
        self._starts = take(batch, chosen), seconds[chosen]
        self._restart()

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
        self._nearby = self.pricer.shared and len(self.codec.names) > EXACT_UP_TO
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
                    _resample(chains)
            count = steps if budget.left is None else min(steps, budget.left // total)
            wanted = self._advance(pool.map, count)
            if budget.seconds is not None:
                steps = adapted(steps, budget.elapsed_s - before_s, budget.left_s)
            budget.spend(count * total)
            budget.report(self.best_s)
            self.pricer.tabulate(wanted)

    def _advance(self, run_all: Callable[..., Iterable[Any]], steps: int) -> NDArray[np.int64]:
        """Takes steps in all populations and returns which volumes were missing."""
        advance = partial(_advance, self.pricer, self.pricer.arguments(CHAINS, self._nearby), steps)
        return np.asarray(sum(run_all(advance, self._chains)))

    def _price_exactly(self) -> None:
        """Goes over to exact rates of shared links."""
        self._nearby = False
        for chains in self._chains:
            chains.seconds[:] = self.pricer.price(chains.current, again=True)
            chains.saved_s[:] = self.pricer.price(chains.saved, again=True)
            chains.best_s[:] = self.pricer.price(chains.best, again=True)


def _advance(pricer: Pricer, arguments: tuple[Any, ...], steps: int, chains: Chains) -> NDArray[np.int64]:
    from distredge.planners.annealing import compiled_steps

    wanted: NDArray[np.int64] = np.zeros_like(arguments[0])
    run = compiled_steps.anneal_general if pricer.general else compiled_steps.anneal_independent
    run(steps, chains, pricer.codec.choices, wanted, *arguments)
    return wanted


def adapted(steps: int, took_s: float, left_s: float | None) -> int:
    """Steps that take `ROUND_S`, or what is left of the budget, if they go on at the same pace."""
    aim_s = ROUND_S if left_s is None else min(ROUND_S, left_s)
    return max(1, min(4 * steps, int(steps * aim_s / max(took_s, 1e-9))))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_chains(batch: Batch, seconds: NDArray[np.float64], seed: int, stream: int) -> Chains:
    """Chains that start from the strategies of a batch."""
    from distredge.planners.annealing.compiled_steps import Chains

    size, everything = len(seconds), np.arange(len(seconds))
    states = np.random.default_rng((seed, stream)).integers(1, 2**63, size, dtype=np.uint64)
    current, proposed, best, saved = (take(batch, everything) for _ in range(4))
    return Chains(
        states=states,
        current=current,
        seconds=seconds.copy(),
        proposed=proposed,
        found=np.empty(size),
        best=best,
        best_s=seconds.copy(),
        heat=np.zeros(size),
        saved=saved,
        saved_s=seconds.copy(),
        left=np.zeros(size, np.int64),
    )


def _ranked(found: list[Found], count: int) -> Found:
    """The best of each of several sets (each the best first), then the second of each, and so on, over and over."""
    batch, seconds = joined([batch for batch, _ in found]), np.concatenate([seconds for _, seconds in found])
    ranks = np.concatenate([np.arange(len(seconds)) for _, seconds in found])
    order = np.resize(np.lexsort((seconds, ranks)), count)
    return take(batch, order), seconds[order]


def _resample(chains: Chains) -> None:
    """Replaces the worst eighth of the chains by copies of the best."""
    order = np.argsort(chains.seconds, kind="stable")
    n = len(order) // 8
    for array in (*chains.current, chains.seconds, *chains.saved, chains.saved_s, chains.left):
        array[order[-n:]] = array[order[:n]]


_loaded: set[bool] = set()


def load(problem: Problem, budget: Budget) -> Pricer:
    """Loads the compiled code that a problem needs, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    with budget.paused():
        from distredge.planners.annealing import compiled_steps
        from distredge.planners.annealing.batch_pricing import Pricer
        from distredge.planners.annealing.encoding import Codec

    pricer = Pricer(Codec(problem), budget)
    if pricer.general not in _loaded:
        function = compiled_steps.anneal_general if pricer.general else compiled_steps.anneal_independent
        with budget.paused():
            if not compiled_steps.is_cached(function):
                _log.warning("compiling the search, once: some 30 seconds (`distredge doctor` does it beforehand)")
            _try(pricer)
        _loaded.add(pricer.general)
    return pricer


def warm() -> None:
    """Compiles what numba's on-disk cache does not hold, so that later searches start at once."""
    from distredge.cluster import load_cluster
    from distredge.model import zoo
    from distredge.planners.budget import Budget
    from distredge.planners.other_objectives import pareto
    from distredge.problem import Problem

    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    for boundary_first in (False, True):
        problem = Problem(graph, load_cluster("db-50", [graph]), boundary_first=boundary_first)
        load(problem, Budget(evaluations=1))
    pareto.load(problem, Budget(evaluations=1))


def _try(pricer: Pricer) -> None:
    """Calls everything that is compiled, on as little as possible."""
    from distredge.latency.tables.all_volumes import fill
    from distredge.planners.annealing.batch_pricing import Pricer
    from distredge.planners.budget import Budget

    codec = pricer.codec
    batch = codec.empty(1)
    batch.cuts[0, 0] = codec.candidates[-1]
    batch.rows[0, 0, 1:] = codec.choices.heights[codec.candidates[-1]]
    fill(pricer.kernel.tables, codec.candidates[-1:])
    seconds = Pricer(codec, Budget(evaluations=1)).price(batch)
    chains = make_chains(batch, seconds, 0, 0)
    _advance(pricer, pricer.arguments(1, False), 0, chains)
