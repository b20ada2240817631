"""What a strategy costs beside its latency, from its layout: period, energy, memory beyond the limits."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.errors import Infeasible
from distredge.latency.costs.boundary_first import strip_seconds
from distredge.latency.costs.computers import access_of
from distredge.latency.costs.memory import peak_memory_bytes
from distredge.latency.simulator.report import energy_j
from distredge.latency.simulator.simulation import Simulation, run
from distredge.model.laying_out import lay_out
from distredge.model.layout import REQUESTER

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.strategy import Strategy


@dataclass(frozen=True)
class Figures:
    """What a strategy costs.

    Attributes:
        latency_s: of one image.
        period_s: seconds between results in the steady state with any number of images in flight: the time for which
            one image occupies the busiest processor, the requester's among them, or link; a link whose rate varies
            counts by its mean.
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


def measure(problem: Problem, strategy: Strategy) -> Figures:
    """Returns the figures of a strategy; infinite ones when it needs a link that is down."""
    layout = lay_out(problem.graph, strategy)
    try:
        simulation = run(problem, layout, strips=strip_seconds(problem, layout))
    except Infeasible:
        return Figures(math.inf)
    latency_s = simulation.frames[0].done_s
    return Figures(
        latency_s,
        max([*_processor_loads(simulation), *_link_loads(problem, simulation)], default=0.0),
        math.fsum(energy_j(problem, simulation, latency_s).values()),
        _excess(problem, simulation),
    )


def _processor_loads(simulation: Simulation) -> list[float]:
    """Seconds for which one image occupies each device, and the requester with its messages."""
    busy_s = [0.0] * len(simulation.network.names)
    for work in simulation.frames[0].works:
        busy_s[work.device] += work.busy_s
    network = simulation.network
    for message in simulation.frames[0].messages:
        if message.source == REQUESTER:
            busy_s[REQUESTER] += network.sends[REQUESTER].busy_s(message.size_bytes, message.packed_bytes)
        if message.destination == REQUESTER:
            busy_s[REQUESTER] += network.receives[REQUESTER].busy_s(message.size_bytes, message.packed_bytes)
    return busy_s


def _link_loads(problem: Problem, simulation: Simulation) -> list[float]:
    """Seconds for which one image occupies each connection (shared links: each access link)."""
    network, cluster = simulation.network, problem.cluster
    devices = [cluster.device(name) for name in simulation.layout.devices]
    ends = [*(access_of(cluster, device) for device in devices), access_of(cluster, cluster.requester)]
    loads: dict[object, float] = defaultdict(float)
    for transfer in simulation.layout.transfers:
        if transfer.local or not network.crosses(transfer.source, transfer.destination):
            continue
        rates = ends[transfer.source].uplink.rate_bps, ends[transfer.destination].downlink.rate_bps
        up, down = (math.inf if rate is None else rate for rate in rates)
        bits = 8.0 * transfer.size_bytes
        if network.shared:
            loads["up", network.computer[transfer.source]] += _seconds(bits, up)
            loads["down", network.computer[transfer.destination]] += _seconds(bits, down)
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
