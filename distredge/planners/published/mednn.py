"""`mednn`: every layer on its own, in two dimensions, balanced greedily (Mao et al., "MeDNN", ICCAD 2017).

Rule: greedy two-dimensional partition (GTDP): each layer's map is cut into a grid; the cut lines start in proportion
to the capability of the devices and then move, one row or column at a time, from the slowest to the fastest group
while the layer's slowest device gets faster.
Assumptions: the devices' own times per layer are known; the network is not looked at.
Decided here: the paper does not say which grid; every grid with one tile per device is planned and the one with the
lowest simulated latency is kept, the same for all layers, strips included. A tile's time is the profile's time of its
rows, scaled by its columns. Since every layer is balanced for itself, cut lines differ from layer to layer and more
data moves between devices than under `modnn`: where links are slow it loses by that. The second half of the paper,
structured pruning, changes the model's output and is left out. Head and exchanges as in `modnn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distredge.planners.common.building import build, price, volume
from distredge.planners.common.linear_models import cut_points
from distredge.planners.common.volume_costs import Floats, VolumeCosts
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy, Volume


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """A volume per layer, tiles balanced greedily."""
    costs = VolumeCosts(problem)
    count = len(costs.devices)
    graph = problem.graph
    widest = max(graph.tensors[cut.reference].width for cut in graph.cuts)
    grids = [(rows, count // rows) for rows in range(count, 0, -1) if count % rows == 0 and count // rows <= widest]
    strategies = [_plan_grid(costs, seed, rows, columns) for rows, columns in grids]
    return min(strategies, key=lambda strategy: price(problem, strategy, budget))


def _plan_grid(costs: VolumeCosts, seed: int, rows: int, columns: int) -> Strategy:
    volumes = [_balance(costs, end, rows, columns) for end in range(1, costs.last + 1)]
    head = costs.devices[int(np.argmax(costs.speed))]
    planner = PlannerRef("mednn", seed, {"grid": [rows, columns]})
    return build(costs.problem, costs.devices, volumes, head, planner)


def _balance(costs: VolumeCosts, end: int, rows: int, columns: int) -> Volume:
    """Moves cut lines while the slowest tile of this layer gets faster."""
    cut = costs.graph.cuts[end - 1]
    width = costs.graph.tensors[cut.reference].width
    speed = costs.speed.reshape(rows, columns)
    down = list(cut_points(cut.height, speed.sum(axis=1)))
    across = list(cut_points(width, speed.sum(axis=0)))
    seconds = _seconds_by_rows(costs, end)
    best_s = _slowest(seconds, down, across, width)
    improved = True
    while improved:
        improved = False
        for lines in (down, across):
            for line in range(1, len(lines) - 1):
                for step in (-1, 1):
                    lines[line] += step
                    found_s = _slowest(seconds, down, across, width) if _rising(lines, line) else np.inf
                    if found_s < best_s - 1e-12:
                        best_s, improved = found_s, True
                    else:
                        lines[line] -= step
    return volume(cut, down, across if columns > 1 else None)


def _rising(lines: list[int], line: int) -> bool:
    return lines[line - 1] <= lines[line] <= lines[line + 1]


def _seconds_by_rows(costs: VolumeCosts, end: int) -> Floats:
    """(n_devices, height + 1), seconds of the first rows of a layer on each device, all columns."""
    height, count = costs.height(end), len(costs.devices)
    found = np.zeros((count, height + 1))
    every = np.arange(height + 1)
    for k in range(count):
        points = np.full((height + 1, count + 1), 0)
        points[:, k + 1 :] = every[:, None]
        # The last column is the whole height: what device k leaves goes to nobody that is looked at here.
        found[k] = next(costs.walk(end, points)).compute_s[:, k]
    return found


def _slowest(seconds: Floats, down: list[int], across: list[int], width: int) -> float:
    rows, columns = np.diff(down), np.diff(across)
    if width <= 1:
        columns = np.ones_like(columns)
    tiles = seconds.reshape(len(rows), len(columns), -1)
    of_rows = np.take_along_axis(tiles, rows[:, None, None], axis=2)[:, :, 0]
    return float((of_rows * columns / max(width, 1)).max())
