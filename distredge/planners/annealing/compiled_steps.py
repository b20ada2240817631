"""The search's inner loop, compiled: change every chain, price all changes with the kernel, take or leave them.

numba keeps compiled functions on disk and looks at the age of their own file alone. These call functions of other
files; so that a change there compiles them anew they hold a digest of all of those (as `latency.kernel.entry_points` does).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from distredge.latency.compiling import borrow, digest, inlined, inner
from distredge.latency.kernel import entry_points
from distredge.latency.kernel.entry_points import clear, independent, room, run_all
from distredge.planners.annealing import moves, strategy_arrays
from distredge.planners.annealing.chains import BEGINS, Chains

MOST_WORSE = 1.5
"""Latency of what may go on trial, relative to where it came from."""


FILES = (
    *entry_points.FILES,
    "planners.annealing.chains",
    "planners.annealing.compiled_steps",
    "planners.annealing.moves",
    "planners.annealing.strategy_arrays",
)
"""Modules that the functions below are compiled from."""


@inlined
def lend(plans: Any) -> Any:
    """The same strategies; passing their arrays on costs no counting of references, which would double the time."""
    return strategy_arrays.Batch(
        borrow(plans.cuts), borrow(plans.rows), borrow(plans.order), borrow(plans.head), borrow(plans.wires),
        borrow(plans.boundary),
    )  # fmt: skip


@inlined
def lend_chains(chains: Any) -> Any:
    """The same chains, as `lend`."""
    return Chains(
        borrow(chains.states), lend(chains.current), borrow(chains.seconds), lend(chains.proposed),
        borrow(chains.found), lend(chains.best), borrow(chains.best_s), borrow(chains.heat), lend(chains.saved),
        borrow(chains.saved_s), borrow(chains.left),
    )  # fmt: skip


@inlined
def lend_choices(choices: Any) -> Any:
    """The same choices, as `lend`."""
    return strategy_arrays.Choices(
        borrow(choices.candidates), borrow(choices.heights), borrow(choices.kinds), choices.free_order,
        borrow(choices.wires), choices.boundary, choices.trials, choices.trial_steps, choices.crosses,
        choices.reach_least, choices.reach_heat,
    )  # fmt: skip


@inner
def propose_all(chains: Any, choices: Any, index: Any, wanted: Any) -> None:
    """Changes every strategy. One that needs a volume that is not tabulated is ruled out and counted in `wanted`."""
    new = chains.proposed
    for k in range(new.cuts.shape[0]):
        moves.copy_plan(chains.current, k, new, k)
        reach = min(0.5, max(choices.reach_least, choices.reach_heat * chains.heat[k]))
        if chains.left[k] > 0:
            moves.change_rows(chains.states, new, k, choices, reach)
        elif moves.uniform(chains.states, k) < choices.trials:
            if moves.uniform(chains.states, k) < choices.crosses:
                other = int(moves.uniform(chains.states, k) * new.cuts.shape[0])
                moves.cross(chains.states, chains.current, other, new, k)
            else:
                moves.change_structure(chains.states, new, k, choices)
            chains.left[k] = BEGINS
        else:
            moves.change(chains.states, new, k, choices, reach)
        chains.found[k] = 0.0
        start = 0
        for w in range(new.cuts.shape[1]):
            end = new.cuts[k, w]
            if end < 0:
                break
            if index[start, end] < 0:
                wanted[start, end] += 1
                chains.found[k] = np.inf
            start = end + 1
        if chains.found[k] == np.inf:
            # The kernel must find something that it can price.
            new.cuts[k] = chains.current.cuts[k]
            new.rows[k] = chains.current.rows[k]


@inner
def accept_all(chains: Any, choices: Any, latency: Any) -> None:
    """Takes over proposals by the Metropolis rule, remembers the best of each chain, and ends trials."""
    for k in range(latency.shape[0]):
        found = max(latency[k], chains.found[k])
        if chains.left[k] == BEGINS:
            chains.left[k] = 0
            if found < MOST_WORSE * chains.seconds[k]:
                moves.copy_plan(chains.current, k, chains.saved, k)
                chains.saved_s[k] = chains.seconds[k]
                chains.left[k] = choices.trial_steps
                _take_over(chains, k, found)
            continue
        if _accepts(chains.states, chains.heat, k, found, chains.seconds[k]):
            _take_over(chains, k, found)
        if chains.left[k] > 0:
            chains.left[k] -= 1
            if chains.left[k] == 0 and not _accepts(
                chains.states, chains.heat, k, chains.seconds[k], chains.saved_s[k]
            ):
                moves.copy_plan(chains.saved, k, chains.current, k)
                chains.seconds[k] = chains.saved_s[k]


@inlined
def _accepts(states: Any, heat: Any, k: int, found: float, before: float) -> bool:
    """The Metropolis rule; what cannot run, or be priced, is never accepted."""
    if not found < np.inf:
        return False
    worse = found / before - 1.0
    return worse <= 0.0 or moves.uniform(states, k) < np.exp(-worse / heat[k])


@inlined
def _take_over(chains: Any, k: int, found: float) -> None:
    moves.copy_plan(chains.proposed, k, chains.current, k)
    chains.seconds[k] = found
    if found < chains.best_s[k]:
        chains.best_s[k] = found
        moves.copy_plan(chains.proposed, k, chains.best, k)


def _compiled(stamp: str) -> tuple[Any, Any, Any]:
    """The functions below, in each of which `stamp` is a constant."""
    entry = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")

    @entry
    def anneal_independent(
        steps: Any, chains: Any, choices: Any, wanted: Any, index: Any, tables: Any, links: Any, input_wire: Any,
        max_phases: Any,
    ) -> None:  # fmt: skip
        """Takes steps under `independent` links of constant rate, without volumes that send their boundary first.

        Args:
            steps: changes of every chain.
            chains: `Chains`; changed.
            choices: `batch.Choices`.
            wanted: (n_cuts, n_cuts) counts proposals that needed a volume that is not tabulated.
            index: (n_cuts, n_cuts) row of each tabulated volume, or -1.
            tables: what `kernel_entry.independent` takes of the tables.
            links: what it takes of the links.
            input_wire: (N,) bytes per element of the input.
            max_phases: most phases of any volume.
        """
        len(stamp)
        size = len(chains.seconds)
        which, latency = np.zeros(size, np.int64), np.empty(size)
        finish = np.empty((0, chains.current.order.shape[1]))
        new = chains.proposed
        lent, lent_choices = lend_chains(chains), lend_choices(choices)
        for _ in range(steps):
            propose_all(lent, lent_choices, index, wanted)
            independent(
                tables[0], tables[1], tables[2], tables[3], links[0], links[1], which, new.cuts, new.rows, new.order,
                new.head, new.wires, input_wire, max_phases, latency, finish,
            )  # fmt: skip
            accept_all(lent, lent_choices, latency)

    @entry
    def anneal_general(
        steps: Any, chains: Any, choices: Any, wanted: Any, index: Any, tables: Any, links: Any, input_wire: Any,
        max_phases: Any, nearby: Any,
    ) -> None:  # fmt: skip
        """Takes steps under everything that the kernel knows.

        Args:
            steps: as `anneal_independent`.
            chains: as there.
            choices: as there.
            wanted: as there.
            index: as there.
            tables: as there.
            links: what `kernel_entry.general` takes of the links.
            input_wire: as there.
            max_phases: as there.
            nearby: whether rates of shared links may be approximate.
        """
        len(stamp)
        size = len(chains.seconds)
        which, latency, start_s = np.zeros(size, np.int64), np.empty(size), np.zeros(size)
        finish = np.empty((0, chains.current.order.shape[1]))
        new, none = chains.proposed, np.empty(0)
        work = room(new.cuts.shape[1], new.order.shape[1] + 1, max_phases)
        lent, lent_choices = lend_chains(chains), lend_choices(choices)
        for _ in range(steps):
            propose_all(lent, lent_choices, index, wanted)
            clear(work)
            run_all(
                tables[0], tables[1], tables[2], tables[3], links[0], links[1], links[2], links[3], links[4], links[5],
                links[6], links[7], links[8], links[9], links[10], which, new.cuts, new.rows, new.order, new.head,
                new.wires, input_wire, new.boundary, start_s, nearby, latency, finish, work[0], work[1], work[2],
                work[3], work[4], work[5], work[6], work[7], work[8], work[9], none.reshape((0, 1)), none, none,
            )  # fmt: skip
            accept_all(lent, lent_choices, latency)

    @entry
    def change(states: Any, plans: Any, choices: Any) -> None:
        """Makes one change of any kind and size to each strategy."""
        len(stamp)
        for k in range(len(states)):
            moves.change(states, plans, k, choices, 0.5)

    return anneal_independent, anneal_general, change


anneal_independent, anneal_general, change = _compiled(digest(*FILES))


def is_cached(function: Any) -> bool:
    """Whether one of them can be loaded from numba's cache."""
    return bool(function._cache._cache_file._load_index())
