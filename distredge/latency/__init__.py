"""What a strategy costs: the simulator and its compiled kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from distredge.latency.boundary import strip_seconds
from distredge.latency.offload import offload
from distredge.latency.simulator import run, simulate
from distredge.latency.step import StepSimulator
from distredge.model.layout import lay_out

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

__all__ = ["StepSimulator", "evaluate", "offload", "simulate"]


def evaluate(problem: Problem, strategy: Strategy, *, start_s: float = 0.0) -> float:
    """Returns the latency of one image in seconds, without a timeline.

    The compiled kernel answers where it can, the simulator otherwise; what prices many strategies gives them to
    `latency.kernel` all at once.

    Args:
        problem: model and cluster.
        strategy: what to run; it must fit both.
        start_s: time on the links' traces at which the image starts.

    Raises:
        Infeasible: if a message has to cross a link that is down.
        StrategyError, ClusterError, ProfileError: as `simulate`.
    """
    latency_s = _compiled_latency_s(problem, strategy, start_s)
    if math.isfinite(latency_s):
        return latency_s
    layout = lay_out(problem.graph, strategy)
    strips = strip_seconds(problem, strategy, layout)
    return run(problem, layout, start_s=start_s, strips=strips).frames[0].done_s


def _compiled_latency_s(problem: Problem, strategy: Strategy, start_s: float) -> float:
    """The kernel's answer; infinite where it has none."""
    try:
        from distredge.latency.kernel import Unsupported, kernel_of
    except ModuleNotFoundError:
        return math.inf
    try:
        kernel = kernel_of(problem)
        return float(kernel.latency_s(**kernel.encode([strategy]), start_s=start_s)[0])
    except Unsupported:
        return math.inf
