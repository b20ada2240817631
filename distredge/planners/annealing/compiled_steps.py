"""The search's inner loop, compiled: change every chain, price all changes with the kernel, take or leave them."""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.latency.compiling import digest, entry, inlined, inner, making
from distredge.latency.kernel import entry_points
from distredge.latency.kernel.arguments import Found, Plans
from distredge.latency.kernel.batches import make_general_room, run_all
from distredge.latency.kernel.common_ground import make_room
from distredge.latency.kernel.independent_links import price_all
from distredge.planners.annealing import moves
from distredge.planners.annealing.chains import BEGINS

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
            moves.copy_plan(chains.current, k, new, k)


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


@making
def kernel_arrays(batch: Any, input_wire: Any, everything: Any) -> Any:
    """The strategies of a batch as the kernel takes them, on the arrays of the batch, and room for what they cost.

    Args:
        batch: N strategies.
        input_wire: (N,) number of the wire of the input.
        everything: whether there is room for more than their latencies.
    """
    size, slabs = batch.order.shape
    most = size if everything else 0
    plans = Plans(
        np.zeros(size, np.int64), batch.cuts, batch.rows, batch.order, batch.head, batch.wires, input_wire,
        batch.boundary, np.zeros(size),
    )  # fmt: skip
    return plans, Found(np.empty(size), np.empty((0, slabs)), np.empty((most, slabs)), np.empty(most))


def _compiled(stamp: str) -> tuple[Any, Any, Any]:
    """The functions below, in each of which `stamp` is a constant."""

    @entry
    def anneal_independent(steps: Any, chains: Any, choices: Any, wanted: Any, pricing: Any) -> None:
        """Takes steps under `independent` links of constant rate, without volumes that send their boundary first.

        Args:
            steps: changes of every chain.
            chains: `chains.Chains`; changed.
            choices: `strategy_arrays.Choices`.
            wanted: (n_cuts, n_cuts) counts proposals that needed a volume that is not tabulated.
            pricing: `strategy_arrays.Pricing`.
        """
        len(stamp)
        plans, found = kernel_arrays(chains.proposed, pricing.input_wire, False)
        room = make_room(plans.cuts.shape[1], plans.order.shape[1] + 1, pricing.tables.max_phases)
        for _ in range(steps):
            propose_all(chains, choices, pricing.row_of, wanted)
            price_all(pricing.tables, pricing.links, plans, found, room)
            accept_all(chains, choices, found.latency)

    @entry
    def anneal_general(steps: Any, chains: Any, choices: Any, wanted: Any, pricing: Any) -> None:
        """Takes steps under everything that the kernel knows; arguments as of `anneal_independent`."""
        len(stamp)
        plans, found = kernel_arrays(chains.proposed, pricing.input_wire, False)
        room = make_general_room(plans.cuts.shape[1], plans.order.shape[1] + 1, pricing.tables.max_phases)
        for _ in range(steps):
            propose_all(chains, choices, pricing.row_of, wanted)
            run_all(pricing.tables, pricing.links, plans, pricing.nearby, found, room)
            accept_all(chains, choices, found.latency)

    @entry
    def change(states: Any, plans: Any, choices: Any) -> None:
        """Makes one change of any kind and size to each strategy: (N,) states, `strategy_arrays.Batch`, `Choices`."""
        len(stamp)
        for k in range(len(states)):
            moves.change(states, plans, k, choices, 0.5)

    return anneal_independent, anneal_general, change


anneal_independent, anneal_general, change = _compiled(digest(*FILES))
