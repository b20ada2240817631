"""Everything that an objective or a limit asks of one strategy, from its layout."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible, PlannerError
from distredge.latency.boundary import strip_seconds
from distredge.latency.memory import peak_memory_bytes
from distredge.latency.report import energy_j
from distredge.latency.simulator import Simulation, run
from distredge.model.layout import lay_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_INFEASIBLE = 1e9
"""Values from here on say how far a limit is exceeded; no objective comes near it."""

_EQUAL = 1e-9
"""Relative difference within which latencies count as equal: simulator and kernel differ in their last digits."""


@dataclass(frozen=True)
class Figures:
    """What a strategy costs.

    Attributes:
        latency_s: of one image.
        period_s: seconds between results in the steady state with any number of images in flight: the time for which
            one image occupies the busiest device or link; a link whose rate varies counts by its mean.
        energy_j: of one image, over the devices that the strategy names and whose watts are known.
        excess_bytes: by how much devices exceed their memory, summed; 0 where it is not to be respected.
    """

    latency_s: float
    period_s: float = math.inf
    energy_j: float = math.inf
    excess_bytes: int = 0

    @property
    def images_per_s(self) -> float:
        """Throughput with several images in flight."""
        return 1.0 / self.period_s if self.period_s > 0 else math.inf


@dataclass(frozen=True)
class Point:
    """A strategy with its figures."""

    strategy: Strategy
    figures: Figures


def measure(problem: Problem, strategy: Strategy, budget: Budget | None = None) -> Figures:
    """Returns the figures of a strategy; infinite ones when it needs a link that is down."""
    if budget is not None:
        budget.spend()
    layout = lay_out(problem.graph, strategy)
    try:
        simulation = run(problem, layout, strips=strip_seconds(problem, strategy, layout))
    except Infeasible:
        return Figures(math.inf)
    latency_s = simulation.frames[0].done_s
    return Figures(
        latency_s,
        max([*_device_loads(simulation), *_link_loads(problem, simulation)], default=0.0),
        math.fsum(energy_j(problem, simulation, latency_s).values()),
        _excess(problem, simulation),
    )


def _device_loads(simulation: Simulation) -> list[float]:
    """Seconds for which one image occupies each device."""
    busy_s = [0.0] * len(simulation.layout.devices)
    for work in simulation.frames[0].works:
        busy_s[work.device] += work.seconds
    return busy_s


def _link_loads(problem: Problem, simulation: Simulation) -> list[float]:
    """Seconds for which one image occupies each connection (shared links: each access link)."""
    network, cluster = simulation.network, problem.cluster
    home = cluster.requester if cluster.requester.device is None else cluster.device(cluster.requester.device)
    ends = [*(cluster.device(name) for name in simulation.layout.devices), home]
    # The requester on a device's board has that board's links.
    board = {-1: network.board} if network.board is not None else {}
    loads: dict[object, float] = defaultdict(float)
    for transfer in simulation.layout.transfers:
        if network.same_board(transfer.source, transfer.destination):
            continue
        rates = ends[transfer.source].uplink.rate_bps, ends[transfer.destination].downlink.rate_bps
        up, down = (math.inf if rate is None else rate for rate in rates)
        bits = 8.0 * transfer.size_bytes
        if network.shared:
            loads["up", board.get(transfer.source, transfer.source)] += _seconds(bits, up)
            loads["down", board.get(transfer.destination, transfer.destination)] += _seconds(bits, down)
        else:
            loads[transfer.source, transfer.destination] += _seconds(bits, min(up, down))
        if network.medium:
            loads["medium"] += _seconds(bits, up) + _seconds(bits, down)
    return list(loads.values())


def _seconds(bits: float, rate_bps: float) -> float:
    return bits / rate_bps if rate_bps > 0 else math.inf if bits > 0 else 0.0


def _excess(problem: Problem, simulation: Simulation) -> int:
    if not problem.respect_memory:
        return 0
    excess = 0
    for name, needed in peak_memory_bytes(problem.graph, simulation.layout).items():
        limit = problem.cluster.device(name).memory_bytes
        if limit is not None:
            excess += max(0, needed - limit)
    return excess


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
    """Indices of the rows that no other row beats, by rising first column; differences within rounding do not count."""
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
