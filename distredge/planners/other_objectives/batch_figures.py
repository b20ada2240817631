"""Prices batches of strategies in all figures with compiled code, and keeps its tables filled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import Unsupported
from distredge.latency.tables.memory_tables import Footprint, Memory, no_memory
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.chains import Chains, make_chains
from distredge.planners.annealing.strategy_arrays import Batch, empty_batch, take
from distredge.planners.other_objectives.figure_arrays import FIGURES, Aims, BoardArrays, Shelves

if TYPE_CHECKING:
    from distredge.planners.annealing.encoding import Codec
    from distredge.planners.budget import Budget
    from distredge.problem import Problem

Floats = NDArray[np.float64]


class FiguresPricer(BatchPricer):
    """Figures of batches of strategies of one problem; takes and raises what `BatchPricer` does."""

    def __init__(self, codec: Codec, budget: Budget) -> None:
        super().__init__(codec, budget)
        problem = codec.problem
        self.general = True
        self.boards = boards_of(problem)
        self.limited = bool(np.isfinite(self.boards.limit_bytes).any())
        self._footprint = Footprint(self.kernel.tables.geometry, len(codec.names)) if self.limited else None

    def figures(self, batch: Batch, again: bool = False) -> Floats:
        """(N, FIGURES) figures; infinite where a link is down, or where only the simulator could say.

        Args:
            batch: strategies.
            again: whether they have been priced and counted before.
        """
        from distredge.planners.other_objectives import compiled_aims

        if not again:
            self.budget.spend(len(batch.cuts))
        found = np.full((len(batch.cuts), FIGURES), np.inf)
        known = np.flatnonzero(self._tabulated(batch))
        if len(known):
            figures = np.empty((len(known), FIGURES))
            compiled_aims.anneal_figures(*self.pricing_arguments(take(batch, known), figures))
            found[known] = figures
        return found

    def advance(self, steps: int, chains: Chains, figures: Floats, aims: Aims, shelves: Shelves) -> NDArray[np.int64]:
        """Takes steps in some chains.

        Args:
            steps: changes of every chain; 0 prices what is proposed.
            chains: N; changed.
            figures: (N, FIGURES) filled with those of the last proposals.
            aims: one for each chain.
            shelves: what is met is offered to them; changed.

        Returns:
            (n_cuts, n_cuts) how often volumes that are not tabulated were needed, as `tabulate` takes it.
        """
        from distredge.planners.other_objectives import compiled_aims

        wanted: NDArray[np.int64] = np.zeros_like(self._index)
        compiled_aims.anneal_figures(*self._arguments(steps, chains, figures, aims, shelves, wanted))
        return wanted

    def pricing_arguments(self, batch: Batch, figures: Floats) -> tuple[Any, ...]:
        """What prices N strategies that are tabulated, as `compiled_aims.anneal_figures` takes it.

        Args:
            batch: the strategies.
            figures: (N, FIGURES) to be filled in.
        """
        weights = np.zeros((1, 3))
        nowhere = empty_shelves(self.codec, 0.0, 1.0, 1, math.inf, weights)
        chains = make_chains(batch, np.zeros(len(figures)), 0, 0)
        return self._arguments(0, chains, figures, Aims(weights, np.zeros(1)), nowhere, np.zeros_like(self._index))

    def _arguments(
        self, steps: int, chains: Chains, figures: Floats, aims: Aims, shelves: Shelves, wanted: NDArray[np.int64]
    ) -> tuple[Any, ...]:
        choices, pricing = self.codec.choices, self.pricing(len(figures), False)
        return steps, chains, figures, choices, aims, shelves, wanted, pricing, self.boards, self.memory()

    def memory(self) -> Memory:
        """What volumes take of memory, as the tables stand now."""
        return no_memory() if self._footprint is None else self._footprint.arrays()

    def index(self) -> NDArray[np.int64]:
        """(n_cuts, n_cuts) row of each volume that may be used and whose memory is known, or -1."""
        return self._index if self._footprint is None else np.where(self.memory().row < 0, -1, self._index)

    def _tabulated(self, batch: Batch) -> NDArray[np.bool_]:
        known = super()._tabulated(batch)
        if self._footprint is not None:
            starts = np.roll(batch.cuts, 1, axis=1) + 1
            starts[:, 0] = 0
            used = (batch.cuts >= 0) & known[:, None]
            for start, end in sorted(set(zip(starts[used].tolist(), batch.cuts[used].tolist(), strict=True))):
                self._require(start - 1, end)
        return known

    def _require(self, first: int, last: int) -> bool:
        tried = super()._require(first, last)
        if self._footprint is not None and self.kernel.tables.index[first + 1, last] >= 0:
            try:
                self._footprint.require(first, last)
            except Unsupported:
                self._refused.add((first, last))
        return tried


def boards_of(problem: Problem) -> BoardArrays:
    """What the compiled code must know of a problem's boards beside what the kernel does."""
    devices = problem.cluster.devices
    profiles = [device.profile for device in devices]
    watts = [
        (p.idle_w, p.busy_w - p.idle_w) if p.idle_w is not None and p.busy_w is not None else (0.0, 0.0)
        for p in profiles
    ]
    limits = [device.memory_bytes if problem.respect_memory else None for device in devices]
    return BoardArrays(
        idle_w=np.array([idle for idle, _ in watts]),
        extra_w=np.array([extra for _, extra in watts]),
        named=not problem.free_order,
        limit_bytes=np.array([math.inf if limit is None else float(limit) for limit in limits]),
    )


def empty_shelves(codec: Codec, first: float, step: float, ranges: int, limit: float, weights: Floats) -> Shelves:
    """Shelves on which nothing stands; `first` to `limit` and `weights`, (M, 3), as of `Shelves`."""
    size = ranges * len(weights) + 1
    plans = empty_batch(size, codec.most_volumes, len(codec.names), 0)
    return Shelves(first, step, ranges, limit, weights, np.full(size, np.inf), np.full((size, FIGURES), np.inf), plans)
