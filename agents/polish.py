"""What the best strategies are given at the end: some milliseconds of local annealing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distredge.errors import Unsupported
from distredge.planners.budget import Budget
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_log = logging.getLogger(__name__)

EVALUATIONS_PER_S = 200_000
"""Strategies that stand for a second."""


def polished(
    problem: Problem, strategies: Sequence[Strategy], seconds: float, seed: int, count: int = 1
) -> list[Strategy]:
    """The best of some strategies after a local search that begins from all of them; none where it does not apply.

    Args:
        problem: says what may be chosen.
        strategies: to begin from, at least one; those that the search cannot take are left out.
        seconds: that it may take, about: it counts strategies, so that the seed decides the result.
        seed: of every random choice.
        count: how many are wanted.
    """
    from distredge.planners.annealing.loading import load
    from distredge.planners.annealing.polishing import polish

    if problem.objective != "latency" or problem.latency_limit_s is not None or problem.respect_memory:
        problem = dataclasses.replace(problem, objective="latency", latency_limit_s=None, respect_memory=False)
    evaluations = max(1, round(seconds * EVALUATIONS_PER_S)) + len(strategies)
    try:
        pricer = load(problem, Budget(evaluations=evaluations))
        pricer.fill()
        taken = [strategy for strategy in strategies if pricer.codec.fits(strategy)]
        if not taken:
            return []
        batch = pricer.codec.encode(taken)
        pricer.price(batch, again=True)  # tabulates what they need
        batch, _ = polish(pricer, batch, Budget(evaluations=evaluations), seed, count)
    except Unsupported as reason:
        _log.info("no polish: %s", reason)
        return []
    return [pricer.codec.strategy(batch, k, PlannerRef("polish", seed)) for k in range(len(batch.cuts))]
