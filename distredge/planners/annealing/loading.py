"""Loading the compiled search, or compiling it, before a budget's clock runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from distredge.planners.annealing.batch_pricing import advance
from distredge.planners.annealing.chains import make_chains

if TYPE_CHECKING:
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.budget import Budget
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

_loaded: set[bool] = set()


def load(problem: Problem, budget: Budget) -> BatchPricer:
    """Loads the compiled code that a problem needs, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    with budget.paused():
        from distredge.planners.annealing import compiled_steps
        from distredge.planners.annealing.batch_pricing import BatchPricer
        from distredge.planners.annealing.encoding import Codec

    pricer = BatchPricer(Codec(problem), budget)
    if pricer.general not in _loaded:
        function = compiled_steps.anneal_general if pricer.general else compiled_steps.anneal_independent
        with budget.paused():
            if not compiled_steps.is_cached(function):
                _log.warning("compiling the search, once: some 30 seconds (`distredge doctor` does it beforehand)")
            _try(pricer)
        _loaded.add(pricer.general)
    return pricer


def _try(pricer: BatchPricer) -> None:
    """Calls everything that is compiled, on as little as possible."""
    from distredge.latency.tables.all_volumes import fill
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.budget import Budget

    codec = pricer.codec
    batch = codec.empty(1)
    batch.cuts[0, 0] = codec.candidates[-1]
    batch.rows[0, 0, 1:] = codec.choices.heights[codec.candidates[-1]]
    fill(pricer.kernel.tables, codec.candidates[-1:])
    seconds = BatchPricer(codec, Budget(evaluations=1)).price(batch)
    chains = make_chains(batch, seconds, 0, 0)
    advance(pricer, pricer.arguments(1, False), 0, chains)
