"""What computing costs on a problem's devices, looked up once per graph and profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.latency.beside import beside
from distredge.profiles.part_costs import PartCosts

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.profiles.compute import ComputeProfile

KEPT = 64
"""Profiles whose costs are kept with a graph: those that were asked for last."""


def part_costs(problem: Problem, device: str) -> PartCosts:
    """Returns what computing costs on a device of a problem; devices of equal profiles share it.

    Raises:
        ClusterError: if the cluster has no such device.
    """
    return costs_of(problem.graph, problem.cluster.device(device).profile)


def costs_of(graph: Graph, profile: ComputeProfile) -> PartCosts:
    """Returns what computing costs on boards of a profile, whichever problem asks."""
    return beside(graph).get("part costs", profile, lambda: PartCosts(graph, profile), KEPT)
