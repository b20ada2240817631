"""What computing costs on a problem's devices, looked up once per problem."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from distredge.profiles.part_costs import PartCosts

if TYPE_CHECKING:
    from distredge.problem import Problem


def part_costs(problem: Problem, device: str) -> PartCosts:
    """Returns what computing costs on a device of a problem; devices of one profile share it.

    Raises:
        ClusterError: if the cluster has no such device.
    """
    profile = problem.cluster.device(device).profile
    costs = _known.setdefault(problem, {})
    if id(profile) not in costs:
        costs[id(profile)] = PartCosts(problem.graph, profile)
    return costs[id(profile)]


_known: WeakKeyDictionary[Problem, dict[int, PartCosts]] = WeakKeyDictionary()
"""Of each problem, by the identity of its profiles; kept as long as the problem is."""
