"""Whether pictures should travel in their JPEG files: a plan is made for rows of pixels, and priced with files as well.

A file is smaller than the pixels that a model takes, often several times; but every device that needs rows of the input
gets all of it, and decodes all of it. So the plan that was made with rows, and the best single device, are priced with
files, and the best of them is taken where it beats the plan with rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge import metric_names
from distredge.errors import Infeasible, PlannerError
from distredge.latency import offload_latency_s
from distredge.latency.simulator.figures import Figures, measure
from distredge.latency.simulator.offload import offload_in_files
from distredge.planners.objectives import check_limits
from distredge.strategy import InputSpec, PlannerRef, Strategy

if TYPE_CHECKING:
    from distredge.problem import Problem

_SOONER = 1e-9
"""Less of a gain than this share is rounding."""


@dataclass(frozen=True)
class InputChoice:
    """What came of the comparison.

    Attributes:
        strategy: what is taken, with its predicted figures.
        rows_latency_s: of the plan with rows.
        files_latency_s: of the best with files; infinite where none meets the limits.
    """

    strategy: Strategy
    rows_latency_s: float
    files_latency_s: float

    @property
    def in_files(self) -> bool:
        """Whether pictures travel in their files."""
        return self.strategy.input.file


def choose_input(problem: Problem, strategy: Strategy, files: InputSpec, insists: bool = False) -> InputChoice:
    """Prices a strategy whose input travels as rows of pixels with files, and takes what is better.

    Args:
        problem: what it was planned for; its objective decides, and its limits hold.
        strategy: the plan, with rows.
        files: an input of files: their mean size and pixels.
        insists: whether files are taken even where rows are better.

    Raises:
        PlannerError: if the strategy sends no pixels.
        Infeasible: if files are insisted on, and nothing meets the limits with them.
    """
    if not strategy.input.pixels:
        raise PlannerError(
            f"{problem.graph.name}: pictures travel in files only where their pixels may travel; the plan's input is "
            f"{strategy.input.dtype}"
        )
    rows = measure(problem, strategy)
    alone, alone_s = offload_in_files(problem, files)
    best: tuple[Figures, Strategy] | None = None
    refusal: Infeasible | None = None
    for candidate in (strategy.replace(input=files), _as_planned(alone, strategy)):
        try:
            check_limits(problem, candidate)
        except Infeasible as error:
            refusal = error
            continue
        found = measure(problem, candidate)
        if best is None or _value(problem, found) < _value(problem, best[0]) * (1 - _SOONER):
            best = found, candidate
    if best is None:
        if insists and refusal is not None:
            raise refusal
        return InputChoice(strategy, rows.latency_s, math.inf)
    found, candidate = best
    if not insists and _value(problem, found) >= _value(problem, rows) * (1 - _SOONER):
        return InputChoice(strategy, rows.latency_s, found.latency_s)
    figures = {
        metric_names.LATENCY_S: found.latency_s,
        metric_names.OFFLOAD_LATENCY_S: min(alone_s, offload_latency_s(problem)),
    }
    return InputChoice(candidate.replace(predicted=figures), rows.latency_s, found.latency_s)


def _as_planned(alone: Strategy, strategy: Strategy) -> Strategy:
    """The single device under the plan's seed: what else the planner said is about another strategy."""
    return alone.replace(planner=PlannerRef(alone.planner.method, strategy.planner.seed), predicted={})


def _value(problem: Problem, figures: Figures) -> float:
    if problem.objective == "throughput":
        return figures.period_s
    return figures.energy_j if problem.objective == "energy" else figures.latency_s
