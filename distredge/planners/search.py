"""`search`: annealing of many strategies at once on the compiled kernel (ours).

Rule. Partition points, cut points of every volume, head device and, where the problem lets them free, device order and
boundary rows first are all decided together. What leaves a volume travels in the narrowest wire that the problem
allows, and in the end, volume by volume, in the widest wherever that is as fast (`annealing.batch_pricing.plain`).

Many chains start from shares by speed over many partition schemes and subsets of the devices, and from what the
trained agent proposes (`planners.agent`). Each step changes one thing in every chain (`annealing.moves`: rows of
neighbouring volumes move together, so that owners stay where the rows are; interchangeable devices never change
places), and the kernel prices all of them; worse ones are taken with a probability that falls to the end of a run.
Now and then the worst chains are replaced by copies of the best, so that a run ends with all of them close to one
strategy. Which one is largely chance: as many short runs as the budget allows begin anew, and the best of several are
the chains of a last, cooler one, which combines them; with a large budget such groups are combined in the same way.

Anytime: the best that was met is returned when the budget ends or the user interrupts. With a budget in evaluations the
result depends on the seed alone, not on the number of threads. Other objectives than latency, and limits that only a
layout can tell, are in `planners.other_objectives`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from distredge.errors import FileError, MissingDependency, Unsupported
from distredge.latency.simulator.figures import Figures
from distredge.planners.annealing.loading import load
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.objectives import infeasible, needs_figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_log = logging.getLogger(__name__)

PROPOSALS, GIVEN = 264, 16
"""Strategies that the trained agent proposes to a search, and how many of them, the best, it begins from."""

AGENT_FROM_S, AGENT_FROM = 0.02, 2000
"""Seconds, and evaluations, of a budget from which on the agent is asked."""


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy that the budget allows.

    Raises:
        Infeasible: if no strategy that was found meets the problem's limits.
    """
    if not needs_figures(problem):
        with contextlib.suppress(Unsupported):
            return _fastest(problem, budget, seed, agents_starts)
    from distredge.planners.other_objectives.one_objective import plan_for

    return plan_for(problem, budget, seed)


def _fastest(
    problem: Problem, budget: Budget, seed: int, more_starts: Callable[[BatchPricer], Batch] | None = None
) -> Strategy:
    """The fastest strategy that was met; `more_starts` as of `Search`."""
    search = Search(problem, budget, seed, more_starts=more_starts)
    strategy = search.run()
    if problem.latency_limit_s is not None and search.latency_s > problem.latency_limit_s:
        raise infeasible(problem, Figures(search.latency_s))
    return strategy


def agents_starts(pricer: BatchPricer) -> Batch:
    """Strategies that the trained agent proposes, for a search to begin from; none where it does not apply.

    Nor are there any where the budget is so small that they would take most of it.
    """
    budget = pricer.budget
    nothing = pricer.codec.empty(0)
    if (budget.seconds is not None and budget.seconds < AGENT_FROM_S) or (
        budget.left is not None and budget.left < AGENT_FROM
    ):
        return nothing
    from distredge.planners.agent.policy import load_policy
    from distredge.planners.agent.proposals import best_proposals

    try:
        with budget.paused():  # loading is no planning
            load_policy()
        return best_proposals(pricer, PROPOSALS, GIVEN, 0)[0]
    except (Unsupported, FileError, MissingDependency) as reason:
        _log.debug("search begins without the trained agent's proposals: %s", reason)
        return nothing


def warm() -> None:
    """Compiles what numba's on-disk cache does not hold, so that later searches start at once."""
    from distredge.cluster import load_cluster
    from distredge.model import zoo
    from distredge.planners.budget import Budget
    from distredge.planners.other_objectives.loading_figures import load as load_figures
    from distredge.problem import Problem

    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    for boundary_first in (False, True):
        problem = Problem(graph, load_cluster("db-50", [graph]), boundary_first=boundary_first)
        load(problem, Budget(evaluations=1))
    load_figures(problem, Budget(evaluations=1))
