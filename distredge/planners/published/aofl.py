"""`aofl`: fused blocks by dynamic programming (Zhou et al., "Adaptive parallel execution...", ACM/IEEE SEC 2019).

Rule, with t_f of the paper: a block of layers on a set of devices takes the transfers of its input and output between
one source and each device, and the computing of its slowest device, halo included. t_o(i, 0) = 0, t_o(i, j) = min over
1 <= k <= j of t_f(i, k) + t_o(i+k, j-k). For each block the devices are ranked by speed, then by link rate, and added
one at a time: the prefix with the lowest predicted time is kept. Inside a block the shares make communication +
computing equal on all devices.
Assumptions: a layer's time is a line in its multiply-adds (fitted to the profiles); all data passes through the source.
Decided here: this is the published dynamic program; DistrEdge's comparison tried all partitions instead (10 minutes).
The source is the requester. The paper adds up the transfers because the source's uplink carries one after another; here
that sum is taken at the rate of the source's own link, and every device's transfer at the rate of its link besides, so
that a source whose link is unbounded (DistrEdge's case) serves all devices at once. Blocks hold whole residual
(inception) blocks and are cut by rows alone (the paper also tries grids). Between blocks only missing rows travel,
straight from their owners, where the paper collects and deals out whole maps at the source: this favours AOFL. The head
runs on the first device of the ranking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible
from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points, fit_lines, s_per_byte
from distredge.planners.common.volume_costs import Floats, Ints, VolumeCost, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


_ROUNDING = 1e-9


@dataclass(frozen=True)
class Block:
    """The best way found for one fused block: predicted seconds and cut points."""

    seconds: float
    points: tuple[int, ...]


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """The fused blocks that the dynamic program chooses."""
    costs = VolumeCosts(problem)
    model = Predictor(costs)
    scheme = fuse(costs.whole_blocks, model.blocks())
    volumes = [volume(costs.graph.cuts[end - 1], block.points) for end, block in scheme]
    head = costs.devices[model.ranking[0]]
    return build(problem, costs.devices, volumes, head, PlannerRef("aofl", seed))


def plan_on_all(problem: Problem, seed: int = 0) -> Strategy:
    """The same without choosing devices: every block on all that can be reached, as in DistrEdge's comparison."""
    costs = VolumeCosts(problem)
    model = Predictor(costs)
    scheme = fuse(costs.whole_blocks, model.blocks(least=len(model.ranking)))
    volumes = [volume(costs.graph.cuts[end - 1], block.points) for end, block in scheme]
    planner = PlannerRef("aofl", seed, {"devices": "all"})
    return build(problem, costs.devices, volumes, costs.devices[model.ranking[0]], planner)


def fuse(locations: tuple[int, ...], blocks: dict[tuple[int, int], Block]) -> list[tuple[int, Block]]:
    """The cheapest path of blocks through the locations: (end, block) of each; of equal ones the longest block."""
    cost: dict[int, float] = {locations[-1]: 0.0}
    after: dict[int, int] = {}
    for start in reversed(locations[:-1]):
        seconds = {end: blocks[start, end].seconds + cost[end] for end in locations if end > start}
        cost[start] = min(seconds.values())
        after[start] = max(end for end in seconds if seconds[end] <= cost[start] * (1.0 + _ROUNDING))
    path, start = [], locations[0]
    while start != locations[-1]:
        end = after[start]
        path.append((end, blocks[start, end]))
        start = end
    return path


class Predictor:
    """AOFL's cost model of one problem."""

    def __init__(self, costs: VolumeCosts) -> None:
        self.costs = costs
        lines = fit_lines(costs)
        self.s_per_mac = np.array([line.s_per_mac for line in lines])
        self.fixed_s = np.array([line.fixed_s for line in lines])
        per_byte = s_per_byte(costs.problem, costs.devices)
        reachable = [k for k in range(len(costs.devices)) if np.isfinite(per_byte[k])]
        if not reachable:
            raise Infeasible(f"aofl: the link of every device of '{costs.problem.cluster.name}' is down")
        self.ranking = sorted(reachable, key=lambda k: (-costs.speed[k], per_byte[k], k))
        self.per_byte = per_byte
        requester = costs.problem.cluster.requester
        if requester.device is not None and requester.device in costs.devices:
            self.per_byte[costs.devices.index(requester.device)] = 0.0
        rates = [
            math.inf if link.rate_bps is None else link.rate_bps for link in (requester.uplink, requester.downlink)
        ]
        self.source_s_per_byte = 8.0 / min(rates) if min(rates) > 0 else math.inf

    def blocks(self, least: int = 1) -> dict[tuple[int, int], Block]:
        """The best prefix of at least so many devices, and its shares, for every possible block."""
        found = {}
        locations = self.costs.whole_blocks
        sizes = range(least, len(self.ranking) + 1)
        for end in locations[1:]:
            starts = [start for start in locations if start < end]
            points = np.array([self._points(start, end, size) for start in starts for size in sizes])
            pieces = self.costs.slices(end, points)
            for place, start in enumerate(starts):
                rows = slice(place * len(sizes), (place + 1) * len(sizes))
                seconds = self._seconds(pieces[start], points)[rows]
                best = int(np.argmin(seconds))
                found[start, end] = Block(float(seconds[best]), tuple(int(x) for x in points[rows][best]))
        return found

    def _points(self, start: int, end: int, size: int) -> tuple[int, ...]:
        """Cut points under which communication + computing are equal on the first `size` devices of the ranking."""
        costs = self.costs
        used = self.ranking[:size]
        moved = costs.alive_bytes(start) + costs.alive_bytes(end)
        slope = self.s_per_mac * costs.layer_macs[start:end].sum() + moved * self.per_byte
        fixed = self.fixed_s * (end - start)
        while True:
            inverse = 1.0 / np.maximum(slope[used], 1e-18)
            level = (1.0 + (fixed[used] * inverse).sum()) / inverse.sum()
            shares = (level - fixed[used]) * inverse
            if len(used) == 1 or shares.min() >= 0:
                break
            used = [k for k, share in zip(used, shares, strict=True) if share > 0]
        all_shares = np.zeros(len(costs.devices))
        all_shares[used] = np.maximum(shares, 0.0)
        return cut_points(costs.height(end), all_shares)

    def _seconds(self, piece: VolumeCost, points: Ints) -> Floats:
        """(n_splits,) predicted by t_f."""
        moved = self.costs.needed_bytes(piece) + self.costs.owned_bytes(piece.end, points)
        works = np.diff(points, axis=1) > 0
        moved = np.where(works & (self.per_byte > 0), moved, 0.0)
        compute = np.where(works, self.s_per_mac * piece.macs + self.fixed_s * (piece.end - piece.start), 0.0)
        with np.errstate(invalid="ignore"):
            own = np.where(works, moved * self.per_byte, 0.0) + compute
        found: Floats = np.maximum(own.max(axis=1), moved.sum(axis=1) * self.source_s_per_byte + compute.max(axis=1))
        return found
