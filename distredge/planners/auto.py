"""`auto`: the best strategy that the budget allows, never slower than the best single device.

Rule: the best of `offload`, `deepthings` (an equal split) and `search`, which gets the budget that is left. On equal
latency the simpler one wins, in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.planners import deepthings, offload, search
from distredge.planners.common import named, price

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best of the planners above; `settings` say which, and why in a sentence."""
    found: dict[str, tuple[float, Strategy]] = {}
    for method, planner in (("offload", offload.plan), ("deepthings", deepthings.plan), ("search", search.plan)):
        if found and budget.expired():
            break
        strategy = planner(problem, budget, seed)
        found[method] = (price(problem, strategy, budget), strategy)
    chosen = min(found, key=lambda method: found[method][0])
    settings = {"chosen": chosen, "reason": _reason(chosen, {m: s for m, (s, _) in found.items()})}
    return named(found[chosen][1], "auto", seed, settings)


def _reason(chosen: str, seconds: dict[str, float]) -> str:
    """One sentence: what was chosen and against what."""
    alone_ms = seconds["offload"] * 1e3
    if chosen == "offload":
        rivals = [s for m, s in seconds.items() if m != "offload"]
        best = (
            f"the best distributed strategy found takes {min(rivals) * 1e3:.1f} ms"
            if rivals
            else "nothing else was tried"
        )
        return f"distributing does not pay here: the best single device takes {alone_ms:.1f} ms, {best}"
    ms = seconds[chosen] * 1e3
    gain = f"{alone_ms / ms:.2f} times faster"
    return f"{chosen} takes {ms:.1f} ms where the best single device takes {alone_ms:.1f} ms ({gain})"
