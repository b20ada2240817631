"""`auto`: the best strategy that the budget allows, never slower than the best single device.

Rule: the best of `offload`, of a few published planners that take milliseconds (two of them divide columns as well,
which `search` does not), and of `search`, which gets the budget that is left. Best means by the problem's objective,
under its limits. On equal value the simpler one wins, in that order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from distredge.errors import Infeasible, PlannerError
from distredge.latency.simulator.figures import Figures, measure
from distredge.planners import resolve
from distredge.planners.budget import Budget
from distredge.planners.common.building import named, price
from distredge.planners.common.converting import converted
from distredge.planners.objectives import infeasible, is_feasible, needs_figures, value

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

QUICK = ("offload", "deepthings", "modnn")
"""Planners that take some milliseconds."""

GRIDS = ("mednn",)
"""A planner that takes some tenths of a second, and pays where rows are few for so many devices."""

MANY_DEVICES = 5

_EQUAL = 1e-9
"""Relative difference within which values count as equal: simulator and kernel differ in their last digits."""

_CONVERSIONS = 20
"""Strategies that are priced to give one of another planner what it does not know; the budget is spent by then."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best of the planners above; `settings` say which, and why in a sentence.

    Raises:
        Infeasible: if none of them finds a strategy that meets the problem's limits; says what came closest.
    """
    found: dict[str, tuple[float, Figures, Strategy]] = {}
    failed: Infeasible | None = None
    methods = (*QUICK, *(GRIDS if len(problem.cluster.devices) >= MANY_DEVICES else ()), "search")
    with budget.paused():  # importing is no planning
        planners = {method: resolve(method) for method in methods}
    for method, planner in planners.items():
        if found and budget.expired():
            break
        try:
            strategy = planner(problem, budget, seed)
        except Infeasible as error:
            failed = error
            continue
        except PlannerError:  # it does not apply here
            continue
        figures = _figures(problem, strategy, budget)
        found[method] = (value(problem, figures), figures, strategy)
    if not found:
        raise failed or infeasible(problem, Figures(math.inf))
    least = min(item[0] for item in found.values())
    chosen = next(method for method, item in found.items() if item[0] <= least * (1 + _EQUAL))
    best_value, figures, strategy = found[chosen]
    if not is_feasible(best_value):
        raise failed or infeasible(problem, figures)
    if chosen != "search":
        strategy = converted(problem, strategy, Budget(evaluations=_CONVERSIONS))
    reason = _reason(problem, chosen, {method: item[1] for method, item in found.items()})
    return named(strategy, "auto", seed, {"chosen": chosen, "reason": reason + _shared_cores(problem, strategy)})


def _figures(problem: Problem, strategy: Strategy, budget: Budget) -> Figures:
    if needs_figures(problem):
        budget.spend()
        return measure(problem, strategy)
    return Figures(price(problem, strategy, budget))


def _reason(problem: Problem, chosen: str, figures: dict[str, Figures]) -> str:
    """One sentence: what was chosen and against what."""
    if "offload" not in figures:
        return f"{chosen} found a strategy that meets the limits, and the best single device does not"
    alone = _told(problem, figures["offload"])
    if chosen == "offload":
        others = [f for method, f in figures.items() if method != "offload"]
        if not others:
            return f"distributing does not pay here: the best single device takes {alone}, nothing else was tried"
        best = min(others, key=lambda f: value(problem, f))
        if value(problem, best) <= value(problem, figures["offload"]) * (1 + _EQUAL):
            # The search came to one device as well.
            return f"distributing does not pay here: the best single device takes {alone}, and nothing found is better"
        return (
            f"distributing does not pay here: the best single device takes {alone}, "
            f"the best distributed strategy found {_told(problem, best)}"
        )
    gain = value(problem, figures["offload"]) / value(problem, figures[chosen])
    within = is_feasible(value(problem, figures["offload"]))
    better = f"{gain:.2f} times better" if within else "which is beyond the limits"
    return f"{chosen} takes {_told(problem, figures[chosen])} where the best single device takes {alone} ({better})"


def _told(problem: Problem, figures: Figures) -> str:
    """What counts, with its unit."""
    if problem.objective == "throughput":
        return f"{figures.period_s * 1e3:.1f} ms between images"
    if problem.objective == "energy":
        return f"{figures.energy_j:.2f} J"
    return f"{figures.latency_s * 1e3:.1f} ms"


def _shared_cores(problem: Problem, strategy: Strategy) -> str:
    """A clause on workers of one computer that name no host: they are priced as if each had cores of its own."""
    if len(strategy.devices) < 2:
        return ""
    # Only a worker that is started here can be given a port by the system.
    devices = [problem.cluster.device(name) for name in strategy.devices]
    here = [d for d in devices if d.control_port == 0 and d.address in _LOOPBACK and d.host is None]
    if len(here) < 2:
        return ""
    return f"; its {len(here)} workers run on one computer: name it as their host, so that its cores are counted"
