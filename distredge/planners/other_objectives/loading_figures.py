"""Loading the compiled search for other objectives, or compiling it, before a budget's clock runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.annealing import loading
from distredge.planners.annealing.encoding import Codec
from distredge.planners.budget import Budget
from distredge.planners.other_objectives.batch_figures import FiguresPricer
from distredge.planners.other_objectives.figure_arrays import FIGURES

if TYPE_CHECKING:
    from distredge.problem import Problem

_log = logging.getLogger(__name__)

_loaded: list[bool] = []


def load(problem: Problem, budget: Budget) -> FiguresPricer:
    """Loads the compiled code, or compiles it, while the budget's clock stands; says so once.

    Raises:
        Unsupported: if only the simulator prices the problem.
    """
    with budget.paused():
        loading.load(problem, budget)
        pricer = FiguresPricer(Codec(problem), budget)
        if not _loaded:
            _load_steps(pricer)
            _loaded.append(True)
    return pricer


def _load_steps(pricer: FiguresPricer) -> None:
    from distredge.latency.compiling import can_be_kept, is_cached, signature_of
    from distredge.planners.other_objectives import compiled_aims

    batch = loading.simplest(pricer.codec)
    arguments = pricer.pricing_arguments(batch, np.empty((1, FIGURES)))
    function = compiled_aims.anneal_figures
    if can_be_kept(function) and not is_cached(function, signature_of(*arguments)):
        _log.warning(
            "compiling the search for other objectives, once: some 20 seconds (`distredge doctor` does it beforehand)"
        )
    FiguresPricer(pricer.codec, Budget(evaluations=1)).figures(batch)
