"""Loading the compiled search for other objectives, or compiling it, before a budget's clock runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from distredge.planners.annealing import loading
from distredge.planners.annealing.encoding import Codec
from distredge.planners.budget import Budget

if TYPE_CHECKING:
    from distredge.planners.other_objectives.batch_figures import FiguresPricer
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

_loaded: list[bool] = []


def load(problem: Problem, budget: Budget) -> FiguresPricer:
    """Loads the compiled code, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    with budget.paused():
        from distredge.planners.other_objectives.batch_figures import FiguresPricer

        loading.load(problem, budget)
        pricer = FiguresPricer(Codec(problem), budget)
        if not _loaded:
            from distredge.planners.annealing import compiled_steps
            from distredge.planners.other_objectives import compiled_aims

            if not compiled_steps.is_cached(compiled_aims.anneal_figures):
                _log.warning(
                    "compiling the search for other objectives, once: some 20 seconds (`distredge doctor` does it "
                    "beforehand)"
                )
            codec = pricer.codec
            batch = codec.empty(1)
            batch.cuts[0, 0] = codec.candidates[-1]
            batch.rows[0, 0, 1:] = codec.choices.heights[codec.candidates[-1]]
            FiguresPricer(codec, Budget(evaluations=1)).figures(batch)
            _loaded.append(True)
    return pricer
