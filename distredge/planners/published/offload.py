"""`offload`: the whole model on one device (a baseline of Hou et al., "DistrEdge", IPDPS 2022, section V).

Rule: every device is priced with the input, its own compute and the result; the lowest latency wins.
Assumptions: none beyond the cost model; it is the line that every distributed strategy must stay under.
Decided here: the paper (arXiv 2202.01699) names "the provider with the best hardware"; the best latency is the stronger
baseline, since a fast board behind a slow link may lose. Of equal ones the first in the cluster is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.latency.simulator.offload import single_device
from distredge.planners.common.building import best_device, named, smallest_dtype

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best single device."""
    strategy = single_device(problem, best_device(problem, budget), smallest_dtype(problem))
    return named(strategy, "offload", seed)
