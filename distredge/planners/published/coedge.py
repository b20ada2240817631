"""`coedge`: one ratio of rows for all layers, from a linear program (Zeng et al., "CoEdge", IEEE/ACM ToN 2021).

Rule: every device keeps the same share of the rows in every layer and exchanges with its neighbours the border rows
that each layer needs. Compute time is linear in the rows, transfer time linear in the bytes, all devices wait for each
other after each layer. A linear program finds the shares; a share that is smaller than the halo of some layer would
need rows from beyond the neighbour: the device with the smallest share that breaks this is dropped and the program
solved again.
Assumptions: linear device and network models (slopes from the profiles and the links).
Decided here: the paper minimises energy under a deadline. That is done when the problem's objective is energy with a
latency limit (busy watts of the profiles x compute time; 1 W where unknown); otherwise the latency itself is
minimised: input transfer + the sum over the layers of the slowest device. Between layers only missing rows travel.
The head runs on the device that does it soonest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.errors import Infeasible
from distredge.planners.common.building import build, volume
from distredge.planners.common.linear_models import cut_points, s_per_byte
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """A volume per layer, the same shares in all of them."""
    costs = VolumeCosts(problem)
    reachable = np.isfinite(s_per_byte(problem, costs.devices))
    kept = [k for k in range(len(costs.devices)) if reachable[k]]
    if not kept:
        raise Infeasible("coedge: the link of every device is down")
    program = _ShareProgram(costs)
    while True:
        shares = program.solve(kept)
        dropped = program.to_drop(kept, shares)
        if dropped is None:
            break
        kept.remove(dropped)
    volumes = [volume(cut, cut_points(cut.height, shares)) for cut in problem.graph.cuts]
    working = [k for k in kept if shares[k] > 0]
    head = costs.devices[min(working, key=lambda k: costs.head_s[k])]
    settings = {"shares": [round(float(a), 6) for a in shares]}
    return build(problem, costs.devices, volumes, head, PlannerRef("coedge", seed, settings))


class _ShareProgram:
    """The linear program over the shares, for a shrinking set of devices."""

    def __init__(self, costs: VolumeCosts) -> None:
        self.costs = costs
        self.problem = costs.problem
        self.per_byte = s_per_byte(costs.problem, costs.devices)
        self.halo = halo_rows(costs.problem)
        # Seconds of all rows on each device, (layers + 1, n_devices): the input's transfer, then every layer.
        self.whole_s = np.vstack([self.per_byte * costs.alive_bytes(0), costs.whole_s.T])

    def solve(self, kept: list[int]) -> Floats:
        """Shares of all devices, 0 for those that are not kept.

        Variables: the shares of the kept devices, then the time of each step, the input's first. Every step takes at
        least as long as each device takes for its rows and for receiving the border rows.
        """
        from scipy.optimize import linprog

        count, steps = len(kept), len(self.whole_s)
        left = np.zeros((steps * count, count + steps))
        right = np.zeros(steps * count)
        for step in range(steps):
            for place, k in enumerate(kept):
                row = step * count + place
                left[row, place] = self.whole_s[step, k]
                left[row, count + step] = -1.0
                right[row] = -self._exchange_s(step, k) if count > 1 else 0.0
        goal = np.concatenate([np.zeros(count), np.ones(steps)])
        limit = self.problem.latency_limit_s
        if self.problem.objective == "energy" and limit is not None:
            left, right = np.vstack([left, goal]), np.append(right, limit - float(self.costs.head_s.min()))
            watts = [self.problem.cluster.device(self.costs.devices[k]).profile.busy_w or 1.0 for k in kept]
            goal = np.concatenate([np.array(watts) * self.whole_s[1:, kept].sum(axis=0), np.zeros(steps)])
        all_rows = np.concatenate([np.ones(count), np.zeros(steps)])
        solved = linprog(goal, left, right, all_rows[None, :], [1.0], method="highs")
        if not solved.success:
            raise Infeasible(f"coedge: no shares meet the latency limit of {limit} s")
        shares = np.zeros(len(self.costs.devices))
        shares[kept] = np.maximum(solved.x[:count], 0.0)
        return shares

    def to_drop(self, kept: list[int], shares: Floats) -> int | None:
        """The kept device with the smallest share that is below some layer's halo; None when all can stay."""
        if len(kept) == 1:
            return None
        heights = np.array([self.costs.height(end - 1) for end in range(2, self.costs.last + 1)])
        least = float((self.halo[1:] / heights).max(initial=0.0))
        smallest = min(kept, key=lambda k: (shares[k], k))
        return smallest if shares[smallest] < least else None

    def _exchange_s(self, step: int, device: int) -> float:
        """Seconds in which a device receives the border rows before a layer; none before the first one."""
        if step < 2:
            return 0.0
        cut = self.costs.graph.cuts[step - 2]
        row_bytes = sum(self.costs.graph.tensors[name].row_bytes for name in cut.tensors)
        return float(self.halo[step - 1] * row_bytes * self.per_byte[device])


def halo_rows(problem: Problem) -> Floats:
    """(n_layers,), rows beyond its own that a device in the middle needs before each layer, both sides together."""
    costs = VolumeCosts(problem, [problem.cluster.names[0]] * 3)
    found = np.zeros(costs.last)
    for end in range(2, costs.last + 1):
        thirds = np.array([cut_points(costs.height(end), [1, 1, 1])])
        piece = next(costs.walk(end, thirds))
        before = thirds * costs.height(end - 1) // costs.height(end)
        for name, rows in piece.needed.items():
            if name in costs.graph.producer:
                beyond = int(rows.beyond(costs.owned(name, end - 1, before))[0, 1])
                found[end - 1] = max(found[end - 1], beyond)
    return found
