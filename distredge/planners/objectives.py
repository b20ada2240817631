"""What objectives and limits ask of a strategy, and which of many no other beats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import ConfigError, Infeasible, PlannerError
from distredge.latency.simulator.figures import Figures, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.problem import Problem
    from distredge.strategy import Strategy

_INFEASIBLE = 1e9
"""Values from here on say how far a limit is exceeded; no objective comes near it."""

_EQUAL = 1e-9
"""Relative difference within which latencies count as equal: simulator and kernel differ in their last digits."""


@dataclass(frozen=True)
class Point:
    """A strategy with its figures."""

    strategy: Strategy
    figures: Figures


def value(problem: Problem, figures: Figures) -> float:
    """What a search minimises: the objective, or, beyond every feasible value, how far a limit is exceeded."""
    if not math.isfinite(figures.latency_s):
        return math.inf
    violation = figures.excess_bytes / 1e9
    if problem.latency_limit_s is not None:
        violation += max(0.0, figures.latency_s / problem.latency_limit_s - 1.0)
    if violation > 0:
        return _INFEASIBLE * (1.0 + violation)
    return {"latency": figures.latency_s, "throughput": figures.period_s, "energy": figures.energy_j}[problem.objective]


def is_feasible(found: float) -> bool:
    """Whether a value of `value` meets all limits."""
    return found < _INFEASIBLE


def unbeaten(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the rows that no other row beats, by rising first column; differences within rounding do not count.

    Args:
        values: (n_rows, n_values) float64, each to be small.

    Returns:
        (n_kept,) int64 indices of rows.
    """
    order = np.lexsort(values.T[::-1])
    kept: list[int] = []
    for k in order:
        if not kept or not (values[kept] <= values[k] + 1e-9 * np.abs(values[k])).all(axis=1).any():
            kept.append(int(k))
    return np.array(kept, np.int64)


def needs_figures(problem: Problem) -> bool:
    """Whether more than the latency decides: another objective, or a limit on memory that may bind."""
    if problem.objective != "latency":
        return True
    return problem.respect_memory and any(device.memory_bytes is not None for device in problem.cluster.devices)


def infeasible(problem: Problem, closest: Figures) -> Infeasible:
    """The error that no strategy meets the limits; says which, and what came closest."""
    limits = []
    if problem.latency_limit_s is not None:
        limits.append(f"a latency of {problem.latency_limit_s * 1e3:g} ms (closest: {closest.latency_s * 1e3:.2f} ms)")
    if problem.respect_memory:
        limits.append(f"the devices' memory (closest: {closest.excess_bytes / 1e6:.1f} MB too much)")
    what = " and ".join(limits) or "the links: every one that is needed is down"
    return Infeasible(f"no strategy found for {problem.graph.name} on '{problem.cluster.name}' that meets {what}")


def check_limits(problem: Problem, strategy: Strategy) -> None:
    """Refuses a strategy that breaks the problem's limits: most methods know of none.

    Raises:
        Infeasible: says by how much, and which methods look for strategies within limits.
    """
    limit_s = problem.latency_limit_s
    if limit_s is None and not problem.respect_memory:
        return
    found = measure(problem, strategy)
    broken = []
    if limit_s is not None and found.latency_s > limit_s * (1 + _EQUAL):
        broken.append(f"takes {found.latency_s * 1e3:.2f} ms, and the limit is {limit_s * 1e3:g} ms")
    if found.excess_bytes:
        broken.append(f"needs {found.excess_bytes / 1e6:.1f} MB more than its devices' memory")
    if broken:
        method = strategy.planner.method
        raise Infeasible(f"{method}: its strategy {' and '.join(broken)}; search and auto look for one within limits")


def without_watts(problem: Problem) -> list[str]:
    """Names of the devices whose profile does not say idle and busy watts."""
    devices = problem.cluster.devices
    return [device.name for device in devices if device.profile.idle_w is None or device.profile.busy_w is None]


def check_lossless(problem: Problem) -> None:
    """Refuses a model whose parts do not give the whole's output to 1e-5, unless that is allowed.

    Raises:
        ConfigError: says what of the model makes it so.
    """
    if problem.graph.lossy_because and not problem.allow_lossy:
        raise ConfigError(
            f"{problem.graph.name}: {problem.graph.lossy_because}: every split of it is lossy; allow that with "
            "--allow-lossy (allow_lossy=True), or give the float32 model"
        )


def check_objective(problem: Problem) -> None:
    """Refuses energy as the objective where a board's is unknown: it would count as none, and get all the work.

    Raises:
        PlannerError: names the devices.
    """
    if problem.objective == "energy" and (unknown := without_watts(problem)):
        raise PlannerError(
            f"energy: the profiles of {', '.join(unknown)} in cluster '{problem.cluster.name}' do not say idle and "
            "busy watts; the objectives latency and throughput need none"
        )
