"""Planning methods, by name.

`plan` runs one of them; `METHODS` says where each is. The methods are strings, resolved when they are called, so that
naming one imports nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, SupportsIndex

from distredge.errors import ConfigError, PlannerError, did_you_mean, located

if TYPE_CHECKING:
    from distredge.planners.budget import Budget, PlanningProgress
    from distredge.problem import Problem
    from distredge.strategy import Strategy

    Planner = Callable[[Problem, Budget, int], Strategy]

METHODS: dict[str, str] = {
    "offload": "distredge.planners.published.offload:plan",
    "modnn": "distredge.planners.published.modnn:plan",
    "mednn": "distredge.planners.published.mednn:plan",
    "coedge": "distredge.planners.published.coedge:plan",
    "deepthings": "distredge.planners.published.deepthings:plan",
    "deeperthings": "distredge.planners.published.deeperthings:plan",
    "aofl": "distredge.planners.published.aofl:plan",
    "deepslicing": "distredge.planners.published.deepslicing:plan",
    "edgeld": "distredge.planners.published.edgeld:plan",
    "pico": "distredge.planners.published.pico:plan",
    "dpfp": "distredge.planners.published.dpfp:plan",
    "halp": "distredge.planners.published.halp:plan",
    "distredge": "distredge.agents.osds:plan",
    "agent": "distredge.planners.agent.planning:plan",
    "search": "distredge.planners.search:plan",
    "auto": "distredge.planners.auto:plan",
}
"""Method -> where it is, in the order in which tables show them."""

OVERLAPPING = ("halp",)
"""Methods that are about computing first what others wait for: they may even where a problem is as published."""

OF_ALL_OPTIONS = ("distredge", "agent", "search", "auto")
"""Methods that use all that a problem offers by themselves; strategies of the others are given the rest afterwards."""

__all__ = ["METHODS", "OF_ALL_OPTIONS", "OVERLAPPING", "of_method", "plan", "run"]


def of_method(problem: Problem, method: str) -> Problem:
    """Returns the problem as a method has it: boundary rows first under the published regime too, if it is about that.

    Args:
        problem: any.
        method: one of `METHODS`.
    """
    if problem.regime != "as published" or method not in OVERLAPPING:
        return problem
    return dataclasses.replace(problem, boundary_first=True)


def plan(
    problem: Problem,
    method: str = "auto",
    budget_s: float = 1.0,
    seed: int = 0,
    evaluations: int | None = None,
    progress: Callable[[PlanningProgress], None] | None = None,
) -> Strategy:
    """Finds a strategy.

    Args:
        problem: model, cluster and what is allowed.
        method: one of `METHODS`.
        budget_s: wall-clock seconds, > 0; a method that needs less takes less.
        seed: of every random choice.
        evaluations: limit on priced strategies instead of the one in seconds; the result then depends on the seed
            alone.
        progress: called with the best so far, at most ten times a second.

    Returns:
        The strategy, with `predicted["latency_s"]` and `predicted["offload_latency_s"]` (simulated).

    Raises:
        PlannerError: if the method is unknown or does not apply here.
        Infeasible: if no strategy meets the limits.
        ConfigError: if the budget is not positive, or the seed no whole number from 0 to 2**32 - 1.
    """
    from distredge.planners.budget import Budget

    resolve(method)
    if not _is_seed(seed):
        raise ConfigError(located("plan", "seed", seed, "a whole number from 0 to 2**32 - 1"))
    budget = Budget(None if evaluations is not None else budget_s, evaluations, progress)
    return run(problem, method, budget, seed)


def _is_seed(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):  # also numpy's whole numbers
        return False
    try:
        return 0 <= operator.index(value) < 2**32
    except TypeError:  # an array
        return False


def run(problem: Problem, method: str, budget: Budget, seed: int = 0, planner: Planner | None = None) -> Strategy:
    """Like `plan`, under a budget that the caller keeps hold of (to interrupt it, or to see what was spent).

    Args:
        problem: model, cluster and what is allowed.
        method: one of `METHODS`.
        budget: what may be spent.
        seed: of every random choice.
        planner: plans in the method's stead: a user's own agent is one.
    """
    planner = planner or resolve(method)
    from distredge.planners.common.building import predict
    from distredge.planners.common.converting import converted
    from distredge.planners.objectives import check_limits, check_lossless, check_objective

    check_lossless(problem)
    check_objective(problem)
    budget.method = method
    strategy = planner(problem, budget, seed)
    if method not in OF_ALL_OPTIONS:
        strategy = converted(problem, strategy, budget, overlaps=method in OVERLAPPING)
    check_limits(problem, strategy)
    return predict(problem, strategy)


def resolve(method: object) -> Planner:
    """Imports and returns a planner.

    Raises:
        PlannerError: if there is none of that name.
    """
    if not isinstance(method, str):
        raise PlannerError(located("plan", "method", method, ", ".join(METHODS)))
    target = METHODS.get(method)
    if target is None:
        raise PlannerError(f"no planning method '{method}'{did_you_mean(method, METHODS)}")
    module, _, name = target.partition(":")
    planner: Planner = getattr(importlib.import_module(module), name)
    return planner
