"""`agent`: strategies that a trained network proposes, ranked by the kernel, and a few milliseconds of annealing.

Rule. A network that was trained once, over many models, boards and links, looks at the problem (`agent.features`) and
says in several modes where volumes end, who computes which share of their rows, who computes the head, and what is
computed first (`agent.proposals` makes strategies of that, and samples around them). The compiled kernel prices all of
them; the best are polished by cool annealing (`annealing.polishing`). Every single device is among what is compared.

Nothing is trained when planning. What only the simulator prices, objectives other than latency, and clusters of more
devices than the network was trained on go to `search`, and the log says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge import metric_names
from distredge.errors import Infeasible, Unsupported
from distredge.latency.simulator.figures import Figures
from distredge.planners.agent.policy import load_policy
from distredge.planners.agent.proposals import alone, best_proposals
from distredge.planners.annealing.batch_pricing import plain
from distredge.planners.annealing.loading import load
from distredge.planners.annealing.polishing import polish
from distredge.planners.annealing.strategy_arrays import joined, take
from distredge.planners.objectives import infeasible, needs_figures
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.annealing.strategy_arrays import Batch
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_log = logging.getLogger(__name__)

PROPOSALS = 200
"""Strategies that are proposed."""

POLISHED = 16
"""Proposals, the best ones, that are polished."""

PLAN_S, PLAN_S_PER_DEVICE, LEAST_POLISH_S = 0.0135, 0.0018, 0.003
"""Seconds of planning, without tables, with up to four devices, for each one more, and of polish at least."""

POLISH_EVALUATIONS = 20_000
"""Strategies that polishing may price where the budget is in evaluations."""


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best strategy that the agent proposes, polished.

    Raises:
        Infeasible: if no device can be reached, or nothing meets the problem's limits.
        FileError, MissingDependency: if there is no policy, or nothing to run it.
    """
    try:
        if needs_figures(problem):
            raise Unsupported(f"it plans for latency, not under these objectives and limits ({problem.objective})")
        return agents_own(problem, budget, seed)
    except Unsupported as reason:
        _log.warning("the trained agent does not apply, search plans instead: %s", reason)
    from distredge.planners.search import plan as searched

    return searched(problem, budget, seed)


def agents_own(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The same where `search` must not stand in.

    Raises:
        Infeasible, FileError, MissingDependency: as `plan`.
        Unsupported: if only the simulator prices the problem, or there are more devices than the network knows.
    """
    with budget.paused():  # loading is no planning
        policy = load_policy()
    pricer = load(problem, budget)
    pricer.fill()
    began_s = budget.elapsed_s
    count = PROPOSALS if budget.left is None else min(PROPOSALS, budget.left)
    best, seconds = best_proposals(pricer, count, POLISHED, seed, policy)
    if len(seconds) == 0:
        raise Infeasible(f"no device of cluster '{problem.cluster.name}' can be reached")
    if not budget.expired():
        best, seconds = polish(pricer, best, _share(budget, began_s, len(pricer.codec.names)), seed)
    if problem.latency_limit_s is not None and seconds[0] > problem.latency_limit_s:
        raise infeasible(problem, Figures(float(seconds[0])))

    def again(batch: Batch) -> NDArray[np.float64]:
        return pricer.price(batch, again=True)[:, None]

    plans = plain(take(best, [0]), seconds[:1, None], again, pricer.codec)
    # Where all of planning takes milliseconds the simulator would take most of them to say the same.
    figures = again(joined([plans, alone(pricer.codec)]))[:, 0]
    predicted = {metric_names.LATENCY_S: float(figures[0]), metric_names.OFFLOAD_LATENCY_S: float(figures[1:].min())}
    return pricer.codec.strategy(plans, 0, PlannerRef("agent", seed)).replace(predicted=predicted)


def _share(budget: Budget, began_s: float, devices: int) -> Budget:
    """What polish may spend after proposals that began then: milliseconds, however large the budget is."""
    if budget.left_s is None:
        return budget.share(min(1.0, POLISH_EVALUATIONS / max(budget.left or 1, 1)))
    wanted_s = PLAN_S + PLAN_S_PER_DEVICE * max(0, devices - 4) - (budget.elapsed_s - began_s)
    return budget.share(min(1.0, max(LEAST_POLISH_S, wanted_s) / max(budget.left_s, 1e-6)))
