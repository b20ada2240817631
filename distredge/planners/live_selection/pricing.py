"""What one strategy takes at other rates than those of the cluster file: latency, and its transfers one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from distredge.errors import Infeasible
from distredge.latency.costs.boundary_first import strip_seconds
from distredge.latency.simulator.simulation import run
from distredge.model.laying_out import lay_out

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

REQUESTER_NAME = "requester"
"""An end of a transfer that is no device; no device has that name."""


class Transfer(NamedTuple):
    """A message over a link, from when its rows are there until its last byte is over."""

    source: str
    destination: str
    size_bytes: int
    start_s: float
    stop_s: float


class Priced(NamedTuple):
    """What a frame is predicted to take: seconds, infinite where a link is down, and its transfers."""

    latency_s: float
    transfers: tuple[Transfer, ...]


class Price:
    """Of one strategy; its layout is worked out once.

    Args:
        problem: model and cluster.
        strategy: fits both.

    Raises:
        StrategyError, ClusterError, ProfileError: as `latency.simulate`.
    """

    def __init__(self, problem: Problem, strategy: Strategy) -> None:
        self._problem = problem
        self._layout = lay_out(problem.graph, strategy)
        self._strips = strip_seconds(problem, self._layout)

    def at(self, cluster: Cluster) -> Priced:
        """Prices it on the same devices with other links."""
        try:
            simulation = run(replace(self._problem, cluster=cluster), self._layout, strips=self._strips)
        except Infeasible:
            return Priced(math.inf, ())
        frame, network = simulation.frames[0], simulation.network
        names = (*self._layout.devices, REQUESTER_NAME)
        return Priced(
            frame.done_s - frame.start_s,
            tuple(
                Transfer(names[m.source], names[m.destination], m.size_bytes, m.leave_s, m.sent_s)
                for m in frame.messages
                if m.size_bytes and network.crosses(m.source, m.destination)
            ),
        )


def transfers_of(timeline: Timeline, cluster: Cluster) -> tuple[Transfer, ...]:
    """Returns the transfers of a measured timeline of one frame."""
    known = set(cluster.names)

    def name(found: str) -> str:
        return found if found in known else REQUESTER_NAME

    return tuple(
        Transfer(name(span.device), name(span.peer), span.bytes, span.start_s, span.stop_s)
        for span in timeline.spans
        if span.lane == "send" and span.bytes
    )
