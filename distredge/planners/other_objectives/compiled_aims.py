"""The inner loop of searches for other objectives than latency, compiled.

As `annealing.compiled_steps`, whose moves and rules it uses, with the figures of `compiled_figures` in place of the
latency: every chain has an aim, by which its strategies are worth a number, and whatever is met on the way is offered
to shelves, which keep the best for many aims at once. The logarithm of what a strategy is worth is a weighted sum of
the logarithms of its figures, so that only relative differences count; beyond a limit it rises `STEEP` times as fast as
the limit is exceeded, so that chains may cross what is not allowed. Shelves take only what is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.latency.compiling import digest, entry, inner
from distredge.latency.kernel.batches import make_general_room, run_all
from distredge.latency.tables.memory_tables import Memory
from distredge.planners.annealing import compiled_steps, moves
from distredge.planners.other_objectives.compiled_figures import fill_figures
from distredge.planners.other_objectives.figure_arrays import EXCESS, FIGURES, LATENCY, Aims, BoardArrays

STEEP = 10.0
"""How much faster than a limit is exceeded a strategy gets worse."""

_LEAST = 1e-30
"""Figures below count as this much: the logarithm of nothing has no value."""


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


FILES = (
    *compiled_steps.FILES,
    "latency.tables.memory_tables",
    "planners.other_objectives.compiled_aims",
    "planners.other_objectives.compiled_figures",
    "planners.other_objectives.figure_arrays",
)
"""Modules that the function below is compiled from."""


def _compiled(stamp: str) -> Any:
    """The function below, in which `stamp` is a constant."""

    @entry
    def anneal_figures(
        steps: Any, chains: Any, figures: Any, choices: Any, aims: Aims, shelves: Any, wanted: Any, pricing: Any,
        boards: BoardArrays, memory: Memory,
    ) -> None:  # fmt: skip
        """Takes steps of every chain; without any it prices what is proposed as it stands.

        One function for both, because the kernel in it takes most of the time to compile.

        Args:
            steps: changes of every chain.
            chains: `chains.Chains`, whose "seconds" are what strategies are worth to the chain's aim; changed.
            figures: (N, FIGURES) filled with those of the last proposals.
            choices: `strategy_arrays.Choices`.
            aims: one for each chain.
            shelves: what is met is offered to them; changed.
            wanted: (n_cuts, n_cuts) counts proposals that needed a volume that is not tabulated.
            pricing: `strategy_arrays.Pricing`.
            boards: what they draw and hold.
            memory: what volumes take of it.
        """
        len(stamp)
        plans, found = compiled_steps.kernel_arrays(chains.proposed, pricing.input_wire, True)
        room = make_general_room(plans.cuts.shape[1], plans.order.shape[1] + 1, pricing.tables.max_phases)
        logs = np.empty(3)
        for _ in range(max(1, steps)):
            if steps > 0:
                compiled_steps.propose_all(chains, choices, pricing.row_of, wanted)
            run_all(pricing.tables, pricing.links, plans, pricing.nearby, found, room)
            fill_figures(chains.proposed, boards, memory, found, figures)
            if steps > 0:
                judge_all(aims, shelves, chains.proposed, figures, logs, chains.found)
                compiled_steps.accept_all(chains, choices, chains.found)

    return anneal_figures


anneal_figures = _compiled(digest(*FILES))
