"""`edgeld`: blocks between poolings, rows balanced by a fitted line (Xue et al., "EdgeLD", HPCC 2020).

Rule: consecutive convolutions between two poolings form one block. In a block, one device's time is a * F + b (F its
floating-point operations) plus its data over its link to the leader. OCBP: shares start in proportion to 1 / a, then
rows move one at a time from the slowest to the fastest device until they differ by less than a tolerance or a share is
down to one row.
Assumptions: linear devices and links; all data passes through the leader.
Decided here: lines are fitted to the profiles; the tolerance is 1 % of the slowest; the moves also stop when they no
longer help. A pooling belongs to the block that it ends, where the paper collects the map at the leader and pools
there: this favours EdgeLD. In graphs without poolings a block ends where the map gets smaller, at the end of a residual
block. Only missing rows travel between blocks. The leader, which runs the head, is the fastest device.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points, fit_lines, s_per_byte
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_TOLERANCE = 0.01


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """A volume per resolution, each balanced on its own."""
    costs = VolumeCosts(problem)
    leader = int(np.argmax(costs.speed))
    model = _Predictor(costs, leader)
    volumes = []
    start = 0
    for end in _block_ends(costs):
        volumes.append(volume(costs.graph.cuts[end - 1], _balance(model, start, end)))
        start = end
    return build(problem, costs.devices, volumes, costs.devices[leader], PlannerRef("edgeld", seed))


def _block_ends(costs: VolumeCosts) -> list[int]:
    """Where the map gets smaller, and the end."""
    ends = costs.whole_blocks[1:]
    smaller = [b for a, b in itertools.pairwise(ends) if costs.height(b) < costs.height(a)]
    return sorted({*smaller, costs.last})


class _Predictor:
    """Times of a block by the fitted lines and the links."""

    def __init__(self, costs: VolumeCosts, leader: int) -> None:
        self.costs = costs
        lines = fit_lines(costs)
        self.s_per_mac = np.array([line.s_per_mac for line in lines])
        self.fixed_s = np.array([line.fixed_s for line in lines])
        self.per_byte = s_per_byte(costs.problem, costs.devices)
        self.per_byte[leader] = 0.0

    def seconds(self, start: int, end: int, points: tuple[int, ...]) -> Floats:
        """(n_devices,) of the block from `start` to `end`; 0 for a device without rows."""
        piece = self.costs.slices(end, [points])[start]
        moved = self.costs.needed_bytes(piece)[0] + self.costs.owned_bytes(end, [points])[0]
        compute_s = self.s_per_mac * piece.macs[0] + self.fixed_s * (end - start)
        with np.errstate(invalid="ignore"):
            found = compute_s + moved * self.per_byte
        return np.where(np.diff(points) > 0, found, 0.0)


def _balance(model: _Predictor, start: int, end: int) -> tuple[int, ...]:
    costs = model.costs
    alive = np.isfinite(model.per_byte)
    rows = np.diff(cut_points(costs.height(end), np.where(alive, 1.0 / np.maximum(model.s_per_mac, 1e-18), 0.0)))
    best, best_s = rows, np.inf
    for _ in range(costs.height(end) * len(costs.devices)):
        seconds = model.seconds(start, end, (0, *np.cumsum(rows).tolist()))
        slowest = int(np.argmax(seconds))
        if seconds[slowest] < best_s:
            best, best_s = rows, float(seconds[slowest])
        fastest = int(np.argmin(np.where(alive, seconds, np.inf)))
        spread = seconds[slowest] - seconds[fastest]
        if spread < _TOLERANCE * seconds[slowest] or rows[slowest] <= 1 or slowest == fastest:
            break
        moved = rows.copy()
        moved[slowest] -= 1
        moved[fastest] += 1
        if model.seconds(start, end, (0, *np.cumsum(moved).tolist())).max() > best_s * 1.5:
            break
        rows = moved
    return (0, *np.cumsum(best).tolist())
