"""What a strategy costs: the simulator and its compiled kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.latency.costs.boundary_first import strip_seconds
from distredge.latency.simulator.offload import offload, offload_latency_s
from distredge.latency.simulator.report import Throughput, simulate, throughput
from distredge.latency.simulator.simulation import run
from distredge.latency.simulator.step_by_step import StepSimulator
from distredge.model.laying_out import lay_out

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy

__all__ = ["StepSimulator", "Throughput", "evaluate", "offload", "offload_latency_s", "simulate", "throughput"]


def evaluate(problem: Problem, strategy: Strategy, *, start_s: float = 0.0) -> float:
    """Returns the latency of one image in seconds, without a timeline.

    It takes the simulator's time. What prices many strategies goes to `latency.kernel`, which gives the same numbers in
    a thousandth of it, once it is loaded and the volumes are tabulated.

    Args:
        problem: model and cluster.
        strategy: what to run; it must fit both.
        start_s: time on the links' traces at which the image starts.

    Raises:
        Infeasible: if a message has to cross a link that is down.
        StrategyError, ClusterError, ProfileError: as `simulate`.
    """
    layout = lay_out(problem.graph, strategy)
    strips = strip_seconds(problem, layout)
    return run(problem, layout, start_s=start_s, strips=strips).frames[0].done_s
