"""The inner loop of searches for other objectives than latency, compiled.

As `anneal`, whose moves and rules it uses, with the figures of `loads` in place of the latency: every chain has an aim,
by which its strategies are worth a number, and whatever is met on the way is offered to `Shelves`, which keep the best
for many aims at once. The logarithm of what a strategy is worth is a weighted sum of the logarithms of its figures, so
that only relative differences count; beyond a limit it rises `STEEP` times as fast as the limit is exceeded, so that
chains may cross what is not allowed. Shelves take only what is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distredge.latency.compiling import borrow, digest, inlined, inner
from distredge.latency.kernel import busy_times
from distredge.latency.kernel.busy_times import loads
from distredge.latency.kernel.entry_points import room
from distredge.latency.tables.memory_tables import Memory
from distredge.planners.annealing import compiled_steps, moves
from distredge.planners.other_objectives.compiled_figures import EXCESS, FIGURES, LATENCY, BoardArrays, fill_figures

STEEP = 10.0
"""How much faster than a limit is exceeded a strategy gets worse."""

_LEAST = 1e-30
"""Figures below count as this much: the logarithm of nothing has no value."""


class Aims(NamedTuple):
    """What N chains are after.

    Attributes:
        weights: (N, 3) of the logarithms of latency, period and energy.
        limit: (N,) logarithm of the longest latency.
    """

    weights: NDArray[np.float64]
    limit: NDArray[np.float64]


class Shelves(NamedTuple):
    """The best strategies that were met, by range of latency and by weights; the last one is the nearest to allowed.

    Attributes:
        first, step: logarithms of the lowest latency, and of the ratio of neighbouring ranges.
        ranges: number of ranges.
        limit: logarithm of the longest latency that is allowed.
        weights: (M, 3) as of `Aims`.
        worth: (ranges * M + 1,) logarithm of what each is worth; infinite where nothing has been met.
        figures: (ranges * M + 1, FIGURES).
        plans: the strategies, a `batch.Batch`.
    """

    first: float
    step: float
    ranges: int
    limit: float
    weights: NDArray[np.float64]
    worth: NDArray[np.float64]
    figures: NDArray[np.float64]
    plans: Any


@inner
def logarithms(figures: Any, k: int, found: Any) -> None:
    """Fills in the logarithms of latency, period and energy."""
    for x in range(3):
        found[x] = np.log(max(figures[k, x], _LEAST))


@inner
def worth(logs: Any, excess: float, weights: Any, k: int, limit: float) -> float:
    """The logarithm of what a strategy is worth to one aim; less is better."""
    total = STEEP * (max(0.0, logs[LATENCY] - limit) + excess)
    for x in range(3):
        total += weights[k, x] * logs[x]
    return total


@inner
def offer(shelves: Any, logs: Any, figures: Any, plans: Any, k: int) -> None:
    """Puts a strategy wherever it is better than what is there."""
    last = len(shelves.worth) - 1
    beyond = max(0.0, logs[LATENCY] - shelves.limit) + figures[k, EXCESS]
    if beyond > 0.0:
        if beyond < shelves.worth[last]:
            place(shelves, last, beyond, figures, plans, k)
        return
    count = shelves.weights.shape[0]
    at = min(max(int((logs[LATENCY] - shelves.first) / shelves.step), 0), shelves.ranges - 1) * count
    for m in range(count):
        value = worth(logs, 0.0, shelves.weights, m, np.inf)
        if value < shelves.worth[at + m] - 1e-12:
            place(shelves, at + m, value, figures, plans, k)


@inner
def place(shelves: Any, at: int, value: float, figures: Any, plans: Any, k: int) -> None:
    """Puts a strategy on one shelf."""
    shelves.worth[at] = value
    for x in range(FIGURES):
        shelves.figures[at, x] = figures[k, x]
    moves.copy_plan(plans, k, shelves.plans, at)


@inner
def judge_all(aims: Aims, shelves: Any, plans: Any, figures: Any, logs: Any, found: Any) -> None:
    """What every strategy is worth to its chain, into `found`; all that can run are offered to the shelves."""
    for k in range(len(found)):
        if figures[k, LATENCY] < np.inf and found[k] < np.inf:
            logarithms(figures, k, logs)
            offer(shelves, logs, figures, plans, k)
            found[k] = np.exp(worth(logs, figures[k, EXCESS], aims.weights, k, aims.limit[k]))
        else:
            found[k] = np.inf


@inlined
def lend_boards(boards: Any) -> Any:
    """The same boards; see `anneal` for why."""
    return BoardArrays(
        borrow(boards.idle_w), borrow(boards.extra_w), boards.named, borrow(boards.limit_bytes),
    )  # fmt: skip


@inlined
def lend_memory(memory: Any) -> Any:
    """The same tables."""
    return Memory(
        borrow(memory.row), borrow(memory.weights), borrow(memory.volumes), borrow(memory.peaks),
        borrow(memory.passing), borrow(memory.head), borrow(memory.kept),
    )  # fmt: skip


@inlined
def lend_shelves(shelves: Any) -> Any:
    """The same shelves."""
    return Shelves(
        shelves.first, shelves.step, shelves.ranges, shelves.limit, borrow(shelves.weights), borrow(shelves.worth),
        borrow(shelves.figures), compiled_steps.lend(shelves.plans),
    )  # fmt: skip


FILES = (
    *busy_times.FILES,
    *compiled_steps.FILES,
    "latency.tables.memory_tables",
    "planners.other_objectives.compiled_aims",
    "planners.other_objectives.compiled_figures",
)
"""Modules that the function below is compiled from."""


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant."""

    @njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
    def anneal_figures(
        steps: Any, chains: Any, figures: Any, choices: Any, aims: Aims, shelves: Any, wanted: Any, index: Any,
        tables: Any, links: Any, input_wire: Any, max_phases: Any, nearby: Any, boards: BoardArrays, memory: Memory,
    ) -> None:  # fmt: skip
        """Takes steps of every chain; without any it prices what is proposed as it stands.

        One function for both, because the kernel in it takes most of the time to compile.

        Args:
            steps: changes of every chain.
            chains: `anneal.Chains`, whose "seconds" are what strategies are worth to the chain's aim; changed.
            figures: (N, FIGURES) filled with those of the last proposals.
            choices: `batch.Choices`.
            aims: one for each chain.
            shelves: what is met is offered to them; changed.
            wanted: (n_cuts, n_cuts) counts proposals that needed a volume that is not tabulated.
            index: (n_cuts, n_cuts) row of each tabulated volume, or -1.
            tables: what `kernel_loads.loads` takes of the tables.
            links: what it takes of the links.
            input_wire: (N,) bytes per element of the input.
            max_phases: most phases of any volume.
            nearby: whether rates of shared links may be approximate.
            boards: `loads.BoardArrays`.
            memory: `loads.Memory`.
        """
        len(stamp)
        size, wide = len(chains.seconds), chains.current.order.shape[1] + 1
        which, start_s, latency, logs = np.zeros(size, np.int64), np.zeros(size), np.empty(size), np.empty(3)
        finish, busy_s, link_s = np.empty((0, wide - 1)), np.empty((size, wide - 1)), np.empty(size)
        new, work = chains.proposed, room(chains.current.cuts.shape[1], wide, max_phases)
        lent, lent_choices = compiled_steps.lend_chains(chains), compiled_steps.lend_choices(choices)
        lent_boards, lent_memory, lent_shelves = lend_boards(boards), lend_memory(memory), lend_shelves(shelves)
        lent_aims, lent_logs = Aims(borrow(aims.weights), borrow(aims.limit)), borrow(logs)
        lent_busy, lent_figures = borrow(busy_s), borrow(figures)
        for _ in range(max(1, steps)):
            if steps > 0:
                compiled_steps.propose_all(lent, lent_choices, index, wanted)
            loads(
                tables[0], tables[1], tables[2], tables[3], links[0], links[1], links[2], links[3], links[4], links[5],
                links[6], links[7], links[8], links[9], links[10], which, new.cuts, new.rows, new.order, new.head,
                new.wires, input_wire, new.boundary, start_s, nearby, latency, finish, busy_s, link_s, work,
            )  # fmt: skip
            fill_figures(lent.proposed, lent_boards, lent_memory, latency, lent_busy, link_s, lent_figures)
            if steps > 0:
                judge_all(lent_aims, lent_shelves, lent.proposed, lent_figures, lent_logs, lent.found)
                compiled_steps.accept_all(lent, lent_choices, lent.found)

    return anneal_figures


anneal_figures = _compiled(digest(*FILES))
