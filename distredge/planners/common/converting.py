"""Options that a method does not know, given to the strategy that it found: all methods then have the same.

What a volume makes may leave in another exact wire, and its boundary rows may be computed and sent first. Neither
changes the output, so that a strategy of any method can be given them, volume by volume, wherever it is faster for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distredge.model.wires import EXACT_WIRES
from distredge.planners.common.building import price
from distredge.planners.objectives import needs_figures

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def converted(problem: Problem, strategy: Strategy, budget: Budget, overlaps: bool = False) -> Strategy:
    """Returns the strategy with the problem's exact options in the volumes where they lower its latency.

    Each option is tried in all volumes at once, then in one after the other, as long as the budget lasts; rows, order
    and devices stay as they are. Returned as it is: a strategy on one device, which exchanges nothing, and any where
    more than the latency counts.

    Args:
        problem: says which options there are.
        strategy: of any method, without regard to them.
        budget: every strategy that is priced counts.
        overlaps: whether the method decided itself which volumes compute first what others wait for: that then stays.
    """
    options = [] if needs_figures(problem) else _options(problem, overlaps)
    if not options or len(strategy.devices) < 2 or budget.expired():
        return strategy
    best_s = price(problem, strategy, budget)
    for option in options:
        for changed in _tries(len(strategy.volumes)):
            if budget.expired():
                return strategy
            volumes = list(strategy.volumes)
            for k in changed:
                volumes[k] = dataclasses.replace(volumes[k], **_turned(strategy, k, option))
            other = strategy.replace(volumes=tuple(volumes))
            latency_s = price(problem, other, budget)
            if latency_s < best_s:
                best_s, strategy = latency_s, other
    return strategy


def _options(problem: Problem, overlaps: bool) -> list[dict[str, Any]]:
    """Fields of a volume, each with the value that the problem offers beside what methods choose by themselves."""
    found: list[dict[str, Any]] = [{"wire": w} for w in problem.wires if w in EXACT_WIRES and w != "float32"]
    return [*found, {"boundary_first": True}] if problem.boundary_first and not overlaps else found


def _tries(count: int) -> Iterator[tuple[int, ...]]:
    yield tuple(range(count))
    if count > 1:
        yield from ((k,) for k in range(count))


def _turned(strategy: Strategy, k: int, option: dict[str, Any]) -> dict[str, Any]:
    """An option for one volume, or the plain value where the volume has it already."""
    plain = {"wire": "float32", "boundary_first": False}
    ((key, value),) = option.items()
    return {key: plain[key] if getattr(strategy.volumes[k], key) == value else value}
