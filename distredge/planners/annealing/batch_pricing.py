"""Prices batches of strategies with the compiled kernel, and keeps its tables filled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.tables.all_volumes import fill
from distredge.planners.annealing.strategy_arrays import Pricing, take

if TYPE_CHECKING:
    from distredge.planners.annealing.chains import Chains
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.annealing.strategy_arrays import Batch, Choices
    from distredge.planners.budget import Budget


FILLING = 0.3
"""Share of a budget in seconds that may go to tabulating volumes before any was asked for."""

TABULATED_PER_ROUND, TABULATING, TABULATING_ROUND_S = 8, 0.25, 0.02
"""Volumes that are tabulated between two rounds of steps, the share of the time that this may take where the budget is
in seconds, and the seconds in one round after which no further one is begun."""

_EQUAL = 1e-12
"""Relative difference within which figures count as equal."""


class BatchPricer:
    """Latencies of batches of strategies of one problem.

    Args:
        codec: the problem and what may be chosen.
        budget: every strategy that is priced counts against it.

    Raises:
        Unsupported: if only the simulator prices this problem.
    """

    def __init__(self, codec: Codec, budget: Budget) -> None:
        self.codec = codec
        self.budget = budget
        self.kernel = kernel_of(codec.problem)
        if codec.choices.packing:
            with budget.paused():  # the first time the whole model is run
                self.kernel.tables.price_packed()
        self.general = bool(self.kernel.links.hard.any()) or codec.problem.boundary_first
        self.shared = bool(self.kernel.links.shared.any())
        self._refused: set[tuple[int, int]] = set()
        self._tabulated_s = 0.0
        # With a budget in evaluations, what others have tabulated before must make no difference.
        known = self.kernel.tables.index
        self._index = np.full_like(known, -1) if budget.seconds is None else known.copy()

    def fill(self, budget: Budget | None = None) -> None:
        """Tabulates what can be tabulated fast, in a part of the budget, or of another one."""
        budget = budget or self.budget
        before_s = budget.elapsed_s
        most_s = math.inf if budget.seconds is None else FILLING * budget.seconds
        done = fill(self.kernel.tables, self.codec.candidates, lambda: budget.elapsed_s - before_s > most_s)
        self._index[done] = self.kernel.tables.index[done]

    def index(self) -> NDArray[np.int64]:
        """(n_cuts, n_cuts) row of each volume that may be used, or -1."""
        return self._index

    def price(self, batch: Batch, again: bool = False, exact: bool = True) -> NDArray[np.float64]:
        """(N,) seconds; infinite where a link is down, or where only the simulator could say.

        Args:
            batch: strategies.
            again: whether they have been priced, in a hurry, and counted before.
            exact: False allows approximate rates of shared links.
        """
        if not again:
            self.budget.spend(len(batch.cuts))
        found = np.full(len(batch.cuts), np.inf)
        known = np.flatnonzero(self._tabulated(batch))
        if len(known):
            found[known] = self.kernel.latency_s(
                batch.cuts[known],
                batch.rows[known],
                batch.head[known],
                order=batch.order[known],
                wire=batch.wires[known],
                input_wire=self.codec.input_wire,
                boundary_first=batch.boundary[known],
                exact=exact,
            )
        return found

    def tabulate(self, wanted: NDArray[np.int64]) -> None:
        """Tabulates volumes that were missed most often; called between two rounds of steps.

        Args:
            wanted: (n_cuts, n_cuts) how often each was, by cut before it plus 1 and cut at its end.
        """
        budget, before_s, until_s = self.budget, self.budget.elapsed_s, math.inf
        if budget.seconds is not None:
            if self._tabulated_s >= TABULATING * before_s:
                return
            until_s = before_s + TABULATING_ROUND_S
        most = TABULATED_PER_ROUND
        for place in np.argsort(-wanted, axis=None, kind="stable"):
            start, end = (int(i) for i in np.unravel_index(place, wanted.shape))
            if most == 0 or wanted[start, end] == 0 or budget.elapsed_s >= until_s:
                break
            most -= self._require(start - 1, end)
        self._tabulated_s += budget.elapsed_s - before_s

    def pricing(self, size: int, nearby: bool) -> Pricing:
        """What compiled steps price with, as the tables stand now.

        Args:
            size: number of chains.
            nearby: whether rates of shared links may be approximate.
        """
        input_wire = np.full(size, self.codec.input_wire)
        return Pricing(self.index(), self.kernel.arguments(), self.kernel.links, input_wire, nearby)

    def _tabulated(self, batch: Batch) -> NDArray[np.bool_]:
        """Which strategies have all their volumes in the tables, which are completed first."""
        starts = np.roll(batch.cuts, 1, axis=1) + 1
        starts[:, 0] = 0
        used = batch.cuts >= 0
        known = ~used | (self._index[starts * used, batch.cuts * used] >= 0)
        for start, end in sorted(set(zip(starts[~known].tolist(), batch.cuts[~known].tolist(), strict=True))):
            self._require(start - 1, end)
        return np.asarray((~used | (self._index[starts * used, batch.cuts * used] >= 0)).all(axis=1))

    def _require(self, first: int, last: int) -> bool:
        """Tabulates one volume; whether that was tried for the first time."""
        if (first, last) in self._refused:
            return False
        try:
            self.kernel.tables.require(first, last)
            self._index[first + 1, last] = self.kernel.tables.index[first + 1, last]
        except Unsupported:
            self._refused.add((first, last))
        return True


def plain(
    plans: Batch, figures: NDArray[np.float64], price: Callable[[Batch], NDArray[np.float64]], codec: Codec
) -> Batch:
    """The same strategies without narrow wires, and boundaries first, where they gain nothing.

    Args:
        plans: N strategies.
        figures: (N, n_figures) what they cost.
        price: says that of others.
        codec: the problem and what may be chosen.
    """
    plans = take(plans, np.arange(len(plans.cuts)))
    goals = {"wires": int(codec.choices.wires[-1]), "boundary": 0}
    changes = _changes(plans, goals)

    def as_good(tried: list[list[_Change]]) -> list[bool]:
        """Whether strategies are as good after some changes each."""
        of = [some[0][0] for some in tried]
        other = take(plans, of)
        for row, some in enumerate(tried):
            _make(other, [(row, w, name) for _, w, name in some], goals)
        found: list[bool] = np.all(price(other) <= figures[of] * (1 + _EQUAL), axis=1).tolist()
        return found

    # Each alone, then all of these at once; only where together they are worse one after the other.
    together: dict[int, list[_Change]] = {}
    for change, good in zip(changes, as_good([[change] for change in changes]) if changes else (), strict=True):
        if good:
            together.setdefault(change[0], []).append(change)
    fine = as_good(list(together.values())) if together else []
    for some, good in zip(together.values(), fine, strict=True):
        for step in [some] if good else [[change] for change in sorted(some, key=lambda change: change[1])]:
            if good or as_good([step])[0]:
                _make(plans, step, goals)
    return plans


_Change = tuple[int, int, str]
"""Number of a strategy, of a volume, and which array of the batch."""


def _changes(plans: Batch, goals: dict[str, int]) -> list[_Change]:
    """Where strategies have other values than some."""
    found = []
    for name, goal in goals.items():
        places = np.argwhere((plans.cuts >= 0) & (getattr(plans, name) != goal))
        found += [(int(k), int(w), name) for k, w in places]
    return found


def _make(plans: Batch, changes: list[_Change], goals: dict[str, int]) -> None:
    for k, w, name in changes:
        getattr(plans, name)[k, w] = goals[name]


def advance(pricer: BatchPricer, pricing: Pricing, steps: int, chains: Chains) -> NDArray[np.int64]:
    """Takes steps in some chains.

    Args:
        pricer: says which compiled loop prices them, and what may be chosen.
        pricing: what they are priced with.
        steps: changes of every chain.
        chains: as many as `pricing` is for; changed.

    Returns:
        (n_cuts, n_cuts) how often volumes that are not tabulated were needed, as `BatchPricer.tabulate` takes it.
    """
    wanted: NDArray[np.int64] = np.zeros_like(pricing.row_of)
    run, arguments = steps_call(pricer, pricing, steps, chains, wanted)
    run(*arguments)
    return wanted


def steps_call(
    pricer: BatchPricer,
    pricing: Pricing,
    steps: int,
    chains: Chains,
    wanted: NDArray[np.int64],
    choices: Choices | None = None,
) -> tuple[Any, tuple[Any, ...]]:
    """The compiled loop that takes steps, and its arguments.

    `wanted` is (n_cuts, n_cuts), `choices` takes the place of the pricer's, others are as of `advance`.
    """
    from distredge.planners.annealing import compiled_steps

    run = compiled_steps.anneal_general if pricer.general else compiled_steps.anneal_independent
    return run, (steps, chains, choices or pricer.codec.choices, wanted, pricing)
