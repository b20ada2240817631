"""`deepthings`: equal tiles of one fused volume (Zhao et al., "DeepThings", IEEE TCAD 2018: fused tile partitioning).

Rule: the layers up to a fusion point form one volume; its last feature map is cut into a grid of N x M equal tiles, one
per device, each computed with its whole halo; what follows runs on one device, the gateway.
Assumptions: equal devices; the network is not looked at. Work stealing, which evens out unequal devices at run time by
moving whole tiles, and the reuse of overlaps between tiles are not modelled: a strategy fixes who computes what.
Decided here: the paper leaves N, M and the fusion point to its user. The whole body is fused, as in DistrEdge's
comparison ("one fused block"); of the grids with one tile per device the fastest is taken; the gateway is the best
single device. Devices keep the cluster's order, row-major.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distredge.model.rows import even_cuts
from distredge.planners.common.building import best_device, build, price, volume
from distredge.strategy import PlannerRef

if TYPE_CHECKING:
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy


def plan(problem: Problem, budget: Budget, seed: int) -> Strategy:
    """Equal tiles of the whole body, one per device."""
    head = best_device(problem, budget)
    count = len(problem.cluster.devices)
    # Strips come first: of equally fast grids they are the simplest.
    last = problem.graph.cuts[-1]
    width = problem.graph.tensors[last.reference].width
    grids = [(rows, count // rows) for rows in range(count, 0, -1) if count % rows == 0 and count // rows <= width]
    strategies = [_tiles(problem, head, seed, rows, columns) for rows, columns in grids]
    return min(strategies, key=lambda strategy: price(problem, strategy, budget))


def _tiles(problem: Problem, head: str, seed: int, rows: int, columns: int) -> Strategy:
    last = problem.graph.cuts[-1]
    width = problem.graph.tensors[last.reference].width
    across = None if columns == 1 else even_cuts(width, columns)
    tiles = volume(last, even_cuts(last.height, rows), across)
    planner = PlannerRef("deepthings", seed, {"grid": [rows, columns]})
    return build(problem, problem.cluster.names, [tiles], head, planner)
