"""What a strategy costs: the simulator and its compiled kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    Raises:
        Infeasible: if a message has to cross a link that is down.
        StrategyError, ClusterError, ProfileError: as `simulate`.
    """
    return run(problem, lay_out(problem.graph, strategy), start_s=start_s).frames[0].done_s
