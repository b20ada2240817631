"""Loading the compiled search, or compiling it, before a budget's clock runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.annealing.batch_pricing import BatchPricer, steps_call
from distredge.planners.annealing.chains import make_chains
from distredge.planners.annealing.encoding import Codec
from distredge.planners.budget import Budget

if TYPE_CHECKING:
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

_loaded: set[bool] = set()


def load(problem: Problem, budget: Budget) -> BatchPricer:
    """Loads the compiled code that a problem needs, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    pricer = BatchPricer(Codec(problem), budget)
    if pricer.general not in _loaded:
        with budget.paused():
            _load_steps(pricer)
        _loaded.add(pricer.general)
    return pricer


def simplest(codec: Codec) -> Batch:
    """One strategy: one volume, which is the first device's."""
    batch, last = codec.empty(1), codec.candidates[-1]
    batch.cuts[0, 0] = last
    batch.rows[0, 0, 1:] = codec.choices.heights[last]
    return batch


def _load_steps(pricer: BatchPricer) -> None:
    """Calls everything that is compiled, on as little as possible."""
    from distredge.latency.compiling import can_be_kept, is_cached, signature_of
    from distredge.latency.tables.all_volumes import fill

    codec = pricer.codec
    batch = simplest(codec)
    fill(pricer.kernel.tables, codec.candidates[-1:])
    seconds = BatchPricer(codec, Budget(evaluations=1)).price(batch)
    pricing, chains = pricer.pricing(1, False), make_chains(batch, seconds, 0, 0)
    function, arguments = steps_call(pricer, pricing, 0, chains, np.zeros_like(pricing.row_of))
    if can_be_kept(function) and not is_cached(function, signature_of(*arguments)):
        _log.warning("compiling the search, once: some 30 seconds (`distredge doctor` does it beforehand)")
    function(*arguments)
