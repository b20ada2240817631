"""`halp`: a host computes the zone where two secondaries overlap (Li, Iosifidis and Zhang, ICC 2022, arXiv 2207.11294).

Rule: layer by layer, each map is cut into a top segment, a middle zone and a bottom segment; two secondary servers
compute top and bottom, the host the zone between them. Secondaries never exchange rows with each other, only with the
host. Whoever has rows that others wait for computes and sends those first, so that sending hides behind computing.
The ratio of the tasks is optimised (as in the three-Raspberry-Pi prototype, arXiv 2211.13778); the host runs the head.
Assumptions: devices send while they compute.
Decided here: only abstracts could be read. Shares are the same fraction of every map, found by pattern search on the
simulated latency from shares by speed (the ICC setting's zone of 4 rows is among what it can reach); the zone has at
least one row. Boundary rows come first only where the problem allows it, and in the layers where it helps: a strip
recomputes its own halo and starts every operator once more, which can cost more than the sending that it hides. More
than three devices: secondaries and hosts alternate (two secondaries around each host), for every odd number of devices
up to the cluster's; which devices are hosts is tried for the strongest and for the weakest, of three devices for each.
Two devices: one host, one secondary.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import PlannerError
from distredge.planners.common.building import build, price, volume
from distredge.planners.common.linear_models import cut_points
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_ZONE = 0.2
"""Share of a host's zone at the start, as a part of its share by speed."""

_STEPS = (2.0, 1.3, 1.1, 1.03)
_REFINED = 2


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The best arrangement of hosts and secondaries, its shares optimised."""
    count = len(problem.cluster.devices)
    if count < 2:
        raise PlannerError(
            f"halp: cluster '{problem.cluster.name}' has 1 device, it needs a host and at least one secondary; "
            "offload and auto work with one"
        )
    costs = VolumeCosts(problem)
    tried: list[tuple[float, int, _Choice]] = []
    for order in _arrangements(costs):
        shares = np.array([costs.speed[k] * (_ZONE if place % 2 else 1.0) for place, k in enumerate(order)])
        for first in (True, False) if problem.boundary_first else (False,):
            choice = _Choice(order, shares, (first,) * costs.last)
            tried.append((price(problem, _strategy(costs, choice, seed), budget), len(tried), choice))
        if budget.expired():
            budget.cut_short = f"the budget ended after {len(tried)} arrangements"
            break
    best_s, best = np.inf, None
    for latency_s, _, choice in sorted(tried, key=lambda entry: entry[:2])[:_REFINED]:
        found_s, found = _refine(costs, choice, latency_s, budget, seed)
        if found_s < best_s or best is None:
            best_s, best = found_s, found
    assert best is not None
    return _strategy(costs, _choose_first(costs, best, best_s, budget, seed), seed)


@dataclasses.dataclass(frozen=True, eq=False)
class _Choice:
    """What is decided.

    Attributes:
        order: slab order of device indices; every second one is a host.
        shares: of each slab, any scale.
        first: for each layer, whether boundary rows are computed and sent first.
    """

    order: tuple[int, ...]
    shares: Floats
    first: tuple[bool, ...]


def _arrangements(costs: VolumeCosts) -> Iterator[tuple[int, ...]]:
    """Slab orders of device indices; every second one is a host."""
    ranked = sorted(range(len(costs.devices)), key=lambda k: (-costs.speed[k], k))
    if len(ranked) == 2:
        yield (ranked[1], ranked[0])
        yield (ranked[0], ranked[1])
        return
    kinds = {k: (costs.problem.cluster.devices[k].profile, costs.problem.cluster.devices[k].uplink) for k in ranked}
    seen = set()
    for host in ranked:
        others = [k for k in ranked if k != host]
        for pair in itertools.combinations(others, 2):
            kind = (kinds[host], frozenset((kinds[pair[0]], kinds[pair[1]])), kinds[pair[0]] == kinds[pair[1]])
            if kind not in seen:
                seen.add(kind)
                yield (pair[0], host, pair[1])
    for size in range(5, len(ranked) + 1, 2):
        chosen = ranked[:size]
        for hosts in (chosen[: size // 2], chosen[size // 2 + 1 :]):
            rest = [k for k in chosen if k not in hosts]
            yield tuple(k for pair in itertools.zip_longest(rest, hosts) for k in pair if k is not None)


def _refine(costs: VolumeCosts, choice: _Choice, latency_s: float, budget: Budget, seed: int) -> tuple[float, _Choice]:
    """Multiplies one share at a time by ever smaller steps while that helps."""
    best_s, best = latency_s, choice
    for step in _STEPS:
        improved = True
        while improved and not budget.expired():
            improved = False
            for place, factor in itertools.product(range(len(choice.order)), (step, 1 / step)):
                if budget.expired():
                    break
                shares = best.shares.copy()
                shares[place] *= factor
                changed = dataclasses.replace(best, shares=shares)
                found_s = price(costs.problem, _strategy(costs, changed, seed), budget)
                if found_s < best_s * (1 - 1e-9):
                    best_s, best, improved = found_s, changed, True
    if budget.expired() and not budget.cut_short:
        budget.cut_short = "the budget ended while the task ratio was being optimised"
    return best_s, best


def _choose_first(costs: VolumeCosts, choice: _Choice, latency_s: float, budget: Budget, seed: int) -> _Choice:
    """Changes for each layer in turn whether boundary rows come first, where that helps."""
    best_s, best = latency_s, choice
    for layer in range(costs.last) if costs.problem.boundary_first else ():
        if budget.expired():
            budget.cut_short = "the budget ended before every layer had been tried with boundary rows first"
            break
        first = tuple(value != (layer == place) for place, value in enumerate(best.first))
        changed = dataclasses.replace(best, first=first)
        found_s = price(costs.problem, _strategy(costs, changed, seed), budget)
        if found_s < best_s * (1 - 1e-9):
            best_s, best = found_s, changed
    return best


def _strategy(costs: VolumeCosts, choice: _Choice, seed: int) -> Strategy:
    devices = [costs.devices[k] for k in choice.order]
    volumes = []
    for cut, first in zip(costs.graph.cuts, choice.first, strict=True):
        rows = volume(cut, _with_zones(cut_points(cut.height, choice.shares)))
        volumes.append(dataclasses.replace(rows, boundary_first=first))
    hosts = devices[1::2]
    head = max(hosts, key=lambda name: costs.speed[costs.devices.index(name)])
    ratio = [round(float(share), 6) for share in choice.shares / choice.shares.sum()]
    return build(costs.problem, devices, volumes, head, PlannerRef("halp", seed, {"hosts": hosts, "ratio": ratio}))


def _with_zones(points: tuple[int, ...]) -> tuple[int, ...]:
    """Gives every host zone (odd places) a row from its larger neighbour, where the map has rows enough."""
    rows = np.diff(points)
    for zone in range(1, len(rows), 2):
        if rows[zone] == 0:
            neighbours = [k for k in (zone - 1, zone + 1) if k < len(rows)]
            giver = max(neighbours, key=lambda k: rows[k])
            if rows[giver] > 1:
                rows[giver] -= 1
                rows[zone] = 1
    return (0, *np.cumsum(rows).tolist())
